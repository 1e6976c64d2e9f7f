"""PTX to machine code with the assembler that Triton brings, and what it says of the result."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_LAST_OLD = 90  # compute capabilities below take `ptxas`, others the one for Blackwell


@dataclass(frozen=True)
class Assembled:
    """Machine code, and its registers and spilled bytes a thread."""

    cubin: bytes
    registers: int
    spill_bytes: int


def assembler(folder: Path, sm: int) -> Path:
    """Return the assembler in Triton's folder that knows a compute capability."""
    newer = folder / "ptxas-blackwell"
    return newer if sm >= _LAST_OLD and newer.is_file() else folder / "ptxas"


def assemble(ptx: str, folder: Path, sm: int) -> Assembled:
    """Assemble PTX for the target that it names; raises ValueError with what the assembler says.

    The result is the same for the same text: it has no lines and no paths of the source.
    """
    target = re.search(r"\.target\s+(\w+)", ptx)
    if target is None:
        raise ValueError("the PTX names no target")
    with tempfile.TemporaryDirectory() as scratch:
        source, result = Path(scratch) / "kernel.ptx", Path(scratch) / "kernel.cubin"
        source.write_text(ptx, encoding="ascii")
        done = subprocess.run(
            [assembler(folder, sm), "-v", f"--gpu-name={target[1]}", source.name, "-o", result],
            capture_output=True,
            text=True,
            check=False,
            cwd=scratch,
        )
        if done.returncode != 0:
            raise ValueError(f"ptxas refuses the kernel: {done.stderr.strip()[-400:]}")
        cubin = result.read_bytes()
    registers = re.search(r"Used (\d+) registers", done.stderr)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", done.stderr)
    if registers is None or not spills:
        raise ValueError(f"ptxas says nothing of registers: {done.stderr.strip()[-400:]}")
    return Assembled(cubin, int(registers[1]), sum(map(int, spills)))
