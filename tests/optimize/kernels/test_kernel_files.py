"""Compiled kernels in one file: what was written is read, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from edgellama.optimize.kernels.kernel_files import (
    KERNELS_NAME,
    CompiledKernel,
    read_kernels,
    write_kernels,
)
from edgellama.runtime.manifest import EngineError


def made_up(code: bytes, file: str) -> tuple[CompiledKernel, bytes]:
    """Return the record of a kernel whose code is no code."""
    kernel = CompiledKernel(
        op="FusedGQA",
        tactic=1,
        kernel="fused_gqa",
        entry="fused_gqa",
        sm=89,
        code="cubin",
        file=file,
        sha256=sha256(code).hexdigest(),
        warps=4,
        shared_bytes=1024,
        registers=100,
        spill_bytes=0,
        code_bytes=len(code),
        ptx_version="8.4",
        dtype="fp16",
        kv_dtype="fp8",
        constants={"D": 128, "SCALE": 0.125, "APPEND": True},
    )
    return kernel, code


KERNELS = (made_up(b"\x7fELF one", "one.cubin"), made_up(b"\x7fELF two" * 100, "two.cubin"))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / KERNELS_NAME
    write_kernels(path, KERNELS)
    assert read_kernels(path) == KERNELS
    first = path.read_bytes()
    write_kernels(path, KERNELS)
    assert path.read_bytes() == first, "the same kernels make the same file"


def test_every_altered_byte_is_found_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / KERNELS_NAME
    write_kernels(path, KERNELS)
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert read_kernels(path) == KERNELS  # a bit of the zip that says nothing of ours
        except EngineError:
            refused += 1
    assert refused > len(whole) // 2


@pytest.mark.parametrize("length", [0, 10, 200])
def test_a_cut_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / KERNELS_NAME
    write_kernels(path, KERNELS)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(EngineError, match="cannot be read"):
        read_kernels(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be read"):
        read_kernels(tmp_path / KERNELS_NAME)


def test_code_of_another_hash_is_refused(tmp_path: Path) -> None:
    kernel, code = KERNELS[0]
    write_kernels(tmp_path / KERNELS_NAME, [(replace(kernel, sha256="0" * 64), code)])
    with pytest.raises(EngineError, match=r"sha256 of one\.cubin"):
        read_kernels(tmp_path / KERNELS_NAME)
