"""What no build can fulfil is refused by a rule that names its source."""

from __future__ import annotations

from dataclasses import replace

import pytest
from llamas import LLAMA_1B
from refusals import REFUSALS, Refusal

from edgellama.profiles.plan import require_fit
from edgellama.profiles.profile import ProfileError, load_profile
from edgellama.profiles.rules import RULES, require_support


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_the_wish_is_refused(refusal: Refusal) -> None:
    model, profile = refusal.wish()
    with pytest.raises(ProfileError) as caught:
        require_fit(model, profile)
    text = str(caught.value)
    assert text.startswith(f"profile {refusal.profile}: ")
    for word in refusal.words:
        assert word in text
    assert f"[rule {refusal.rule}; source: " in text
    for rule in RULES:
        if rule.name == refusal.rule:
            assert text.endswith(f"source: {rule.source}]")


def test_every_rule_has_a_source_and_a_refusal() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert {*names, "memory"} == {refusal.rule for refusal in REFUSALS}
    assert all(rule.source for rule in RULES)
    assert len({refusal.name for refusal in REFUSALS}) == len(REFUSALS)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_it_is_the_wish_that_is_refused(refusal: Refusal) -> None:
    """The profile itself is not: each table of the wish stands alone for what is wrong."""
    model, _ = Refusal("", refusal.profile, "", ()).wish()
    require_fit(model, load_profile(refusal.profile))


def test_a_portable_export_is_not_refused() -> None:
    pytest.importorskip("torch")  # as its export needs
    from edgellama.optimize.portable import portable_profile

    require_support(LLAMA_1B, portable_profile(LLAMA_1B))


def test_tensorrt_for_rtx_takes_no_versions_of_tensorrt() -> None:
    """It counts otherwise: the range of the profile stays that of the other library."""
    profile = load_profile("l4-1b")
    rtx = replace(profile, build=replace(profile.build, backend="tensorrt-rtx"))
    require_fit(LLAMA_1B, rtx)
