"""Ranges of versions: by hand, and any range against the versions in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.profiles.bounds import ProfileError
from edgellama.profiles.versions import Version, parse_range, parse_version

VERSIONS = st.lists(st.integers(0, 20), min_size=1, max_size=4).map(tuple)


def text(version: Version) -> str:
    return ".".join(map(str, version))


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        (">=10.16,<12", ("10.16", "10.16.1.11", "11.4.0.106"), ("10.15.1", "12", "12.0")),
        ("==11.4.0", ("11.4.0", "11.4.0.106"), ("11.4", "11.4.1", "11.3.9")),
        ("==10.3", ("10.3", "10.3.0.30"), ("10.2.9", "10.4")),
        (">= 11.4.1, < 12", ("11.4.1", "11.5"), ("11.4.0", "11.4.0.106")),
    ],
)
def test_ranges_by_hand(written: str, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    versions = parse_range("field", written)
    assert versions.text == written
    assert all(version in versions for version in inside)
    assert not any(version in versions for version in outside)


@pytest.mark.parametrize("written", ["", "10.3", "~=10.3", ">10.3", "==10.3,<10.3", ">=12,<11"])
def test_what_is_no_range_is_refused(written: str) -> None:
    with pytest.raises(ProfileError, match=r"tensorrt\.versions is"):
        parse_range("tensorrt.versions", written)


@given(low=VERSIONS, high=VERSIONS, version=VERSIONS)
def test_a_range_has_what_lies_between(low: Version, high: Version, version: Version) -> None:
    written = f">={text(low)},<{text(high)}"
    if low >= high:
        with pytest.raises(ProfileError, match="no version satisfies"):
            parse_range("field", written)
    else:
        assert (text(version) in parse_range("field", written)) == (low <= version < high)


@given(exact=VERSIONS, more=VERSIONS)
def test_equality_has_everything_that_begins_so(exact: Version, more: Version) -> None:
    versions = parse_range("field", f"=={text(exact)}")
    assert text(exact) in versions
    assert text((*exact, *more)) in versions
    assert text((*exact[:-1], exact[-1] + 1)) not in versions


@given(bounds=st.tuples(VERSIONS, VERSIONS, VERSIONS, VERSIONS), version=VERSIONS)
def test_within_means_no_version_is_outside(
    bounds: tuple[Version, Version, Version, Version], version: Version
) -> None:
    first, second, third, fourth = sorted(bounds)
    if first == second or second == third or third == fourth:
        return
    outer = parse_range("field", f">={text(first)},<{text(fourth)}")
    inner = parse_range("field", f">={text(second)},<{text(third)}")
    assert inner.within(outer) and not outer.within(inner)
    if text(version) in inner:
        assert text(version) in outer


def test_a_build_number_belongs_to_its_version() -> None:
    assert parse_version("11.4.0.106+cuda13.2") == (11, 4, 0, 106)
    with pytest.raises(ProfileError, match="'trt' does not begin with a number"):
        parse_version("trt")
