"""Compiled kernels in one file, `kernels.zip`: an index and the code of each, with its hash.

They are compiled where the graph is made and travel with it: what builds the engine, on the device
or elsewhere, needs no compiler of kernels. Standard library only.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

from edgellama.runtime.manifest import EngineError

KERNELS_NAME = "kernels.zip"
INDEX = "kernels.json"
_SCHEMA = 1
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can say

# What a damaged zip file or index is said by: zipfile has no base class for it.
_UNREADABLE = (
    OSError,
    EOFError,
    BadZipFile,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    zlib.error,
)


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel for one GPU architecture, ready to be loaded.

    `op` is the graph's operator that it computes and `tactic` its place among the kernels that
    compute the same (from 1); `entry` is the name of its function. `constants` are what it was
    compiled with. Sizes in bytes; `registers` and `spill_bytes` a thread, as ptxas counted them.
    """

    op: str
    tactic: int
    kernel: str
    entry: str
    sm: int
    code: str
    file: str
    sha256: str
    warps: int
    shared_bytes: int
    registers: int
    spill_bytes: int
    code_bytes: int
    ptx_version: str
    dtype: str
    kv_dtype: str
    constants: Mapping[str, int | float | bool]


def write_kernels(path: Path, kernels: Sequence[tuple[CompiledKernel, bytes]]) -> None:
    """Write the index and every kernel's code; the same kernels make the same bytes."""
    content = {"schema": _SCHEMA, "kernels": [asdict(kernel) for kernel, _ in kernels]}
    members = [(INDEX, json.dumps(content, indent=1).encode())]
    members += [(kernel.file, code) for kernel, code in kernels]
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(ZipInfo(name, _DATE), data, ZIP_DEFLATED)


def read_kernels(path: Path) -> tuple[tuple[CompiledKernel, bytes], ...]:
    """Read the kernels of a file with their code; raises EngineError for anything altered."""
    try:
        with ZipFile(path) as archive:
            content: Any = json.loads(archive.read(INDEX))
            if content["schema"] != _SCHEMA:
                raise EngineError(f"{path}: schema is {content['schema']!r}; {_SCHEMA} is needed")
            kernels = [CompiledKernel(**each) for each in content["kernels"]]
            found = [(kernel, archive.read(kernel.file)) for kernel in kernels]
    except EngineError:
        raise
    except _UNREADABLE as error:
        raise EngineError(
            f"{path}: cannot be read ({error}); write the kernels again with `edgellama build`"
        ) from None
    for kernel, code in found:
        if sha256(code).hexdigest() != kernel.sha256:
            raise EngineError(f"{path}: the sha256 of {kernel.file} is not that of {INDEX}")
    return tuple(found)
