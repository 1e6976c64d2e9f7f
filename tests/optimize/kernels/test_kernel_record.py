"""Every kernel for every GPU was compiled as it is now, spilled nothing, and fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from edgellama.optimize.kernels import kernel_record
from edgellama.optimize.kernels.compile import compile_kernels, compiler_version
from edgellama.optimize.kernels.kernel_record import (
    entry,
    keys,
    read_record,
    wanted,
    write_record,
)
from edgellama.profiles.kernels import PTX_SINCE

FILE = Path(__file__).parents[3] / "docs" / "measurements" / "kernels.json"
ANEW = f"python -m edgellama.optimize.kernels.kernel_record {FILE.relative_to(FILE.parents[2])}"
SAMPLE = 8  # one kernel of so many is compiled again


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    found = read_record(FILE)
    if found["triton"] != compiler_version():
        pytest.skip(f"the record is of Triton {found['triton']}, this is {compiler_version()}")
    return found


@pytest.mark.parametrize("sm", PTX_SINCE)
def test_every_kernel_of_every_llama(sm: int, record: dict[str, Any]) -> None:
    each = list(wanted(sm))
    for one, key in zip(each, keys(each), strict=True):
        found = record["kernels"].get(key)
        assert found, f"{one.spec.name} for {sm} has changed since the record was made: {ANEW}"
        assert found["file"] == f"{one.spec.name}_sm{sm}.cubin"
        assert found["spill_bytes"] == 0, found
        assert 0 < found["registers"] <= 255, found
        assert found["shared_bytes"] <= one.shared_bytes, found


def test_nothing_else_is_in_the_record(record: dict[str, Any]) -> None:
    known = {key for sm in PTX_SINCE for key in keys(list(wanted(sm)))}
    assert set(record["kernels"]) == known


@pytest.mark.slow
@pytest.mark.parametrize("sm", PTX_SINCE)
def test_the_record_is_true(sm: int, record: dict[str, Any], tmp_path: Path) -> None:
    """A sample, another one for each GPU, compiled again."""
    every = list(wanted(sm))
    each = every[[*PTX_SINCE].index(sm) % SAMPLE :: SAMPLE]
    made = compile_kernels([one.spec for one in each], sm, code="cubin", cache=tmp_path)
    for key, (kernel, _) in zip(keys(each), made, strict=True):
        assert entry(kernel) == record["kernels"][key]


def test_another_tile_or_source_is_another_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = list(wanted(90))[:2]
    before = keys([first, second])
    assert len(set(before)) == 2 and keys([first, second]) == before
    monkeypatch.setattr("edgellama.optimize.kernels.compile._sources", lambda: b"edited")
    assert not set(keys([first, second])) & set(before)


def test_a_record_is_read_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "record.json"
    kernels = {"a": {"file": "x.cubin", "registers": 32}, "b": {"file": "y.cubin"}}
    write_record(file, {"triton": "1", "kernels": kernels})
    assert read_record(file) == {"triton": "1", "kernels": kernels}
    assert len(file.read_text(encoding="utf-8").splitlines()) == 4


def test_a_record_is_made_of_every_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_record, "PTX_SINCE", {89: (7, 8)})
    monkeypatch.setattr(kernel_record, "wanted", lambda sm: list(wanted(sm))[-1:])
    made = kernel_record.make_record(tmp_path)
    ((key, found),) = made["kernels"].items()
    assert key == keys(list(wanted(89))[-1:])[0] and found["spill_bytes"] == 0
