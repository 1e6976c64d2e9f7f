"""Which processors need the slower kernels that lose nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellama.runtime.byte_sums import sums_saturate


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [
        ("fpu avx2 fma", True),
        ("fpu avx2 avx512f avx512bw", True),
        ("fpu avx2 avx512f avx512_vnni", False),
        ("fpu avx2 avx_vnni", False),
        ("amx_tile amx_int8 avx512_vnni", False),
        ("avx512_vnni_of_another_name", True),
    ],
)
def test_the_flags_tell(tmp_path: Path, flags: str, saturates: bool) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: some\nflags\t\t: {flags}\n", encoding="utf-8")
    assert sums_saturate(file) is saturates


def test_what_cannot_be_told_may_saturate(tmp_path: Path) -> None:
    assert sums_saturate(tmp_path / "absent")
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nFeatures\t: asimd\n", encoding="utf-8")
    assert sums_saturate(file)
