"""What every kernel took when it was compiled, kept in a file: a proof that outlives the compiling.

An entry is named by all that a result depends on, so the file says nothing of kernels, tiles or
compilers that have changed since. Compiling all kernels anew takes minutes, reading takes none.

python -m edgellama.optimize.kernels.kernel_record FILE prints the table and writes the record.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.optimize.kernels.compile import compile_kernels, compiler_version, result_keys
from edgellama.optimize.kernels.kernel_files import CompiledKernel
from edgellama.optimize.kernels.kernel_spec import KernelSpec, attention_spec
from edgellama.optimize.kernels.kernel_table import specs, table
from edgellama.optimize.kernels.tiles import (
    SHARED_LIMIT,
    SHARED_OPT_IN,
    WIDE,
    WIDE_HEAD_SIZES,
    load_tiles,
)
from edgellama.profiles.kernels import FP8_SINCE, PTX_SINCE

_FIGURES = ("registers", "shared_bytes", "spill_bytes", "code_bytes")


@dataclass(frozen=True)
class Wanted:
    """A kernel that must be in the record, and the shared memory that it may take."""

    spec: KernelSpec
    sm: int
    shared_bytes: int


def wanted(sm: int) -> Iterator[Wanted]:
    """Yield every kernel of every Llama, and what the launcher uses besides: wide tiles, in the
    shared memory that a program may ask for, and the append before them."""
    for _, spec in specs(sm):
        yield Wanted(spec, sm, SHARED_LIMIT)
    for size in WIDE_HEAD_SIZES:
        for kind in ("fp16", "int8", *(("fp8",) if sm >= FP8_SINCE else ())):
            shape = AttentionShape(8, 4, size, "fp16", kind)
            tile = load_tiles(sm).tile(WIDE, size, kind)
            wide = attention_spec(shape, tile, 1, pieces=False, append=False)
            for spec in (wide, append_spec(shape)):
                yield Wanted(spec, sm, SHARED_OPT_IN[sm] * 1024)


def append_spec(shape: AttentionShape) -> KernelSpec:
    """Return the launch that writes the caches before a wide attention."""
    attention = attention_spec(shape, load_tiles(90).tile(WIDE, 64, "fp16"), 1, pieces=False)
    read = ("qkv", "rows", "cos", "sin", "key_scale", "value_scale", "capacity")
    names = (*read, "present_key", "present_value")
    constants = {"KV_HEADS": shape.kv_heads, "GROUP": shape.group, "D": shape.head_dim}
    return replace(
        attention,
        module="edgellama.optimize.kernels.append_cache",
        function="append_cache",
        arguments={name: attention.arguments[name] for name in names},
        aligned=names,
        constants={**constants, "BLOCK_N": 32},
    )


def keys(each: Sequence[Wanted]) -> list[str]:
    """Return the names of the entries of kernels of one compute capability."""
    return result_keys([one.spec for one in each], each[0].sm, code="cubin")


def entry(kernel: CompiledKernel) -> dict[str, Any]:
    """Return what the record says of a kernel."""
    return {"file": kernel.file, **{name: getattr(kernel, name) for name in _FIGURES}}


def make_record(cache: Path | None = None) -> dict[str, Any]:
    """Compile all kernels that are not in `cache`, None the user's; returns the record."""
    found: dict[str, Any] = {}
    for sm in PTX_SINCE:
        each = list(wanted(sm))
        made = compile_kernels([one.spec for one in each], sm, code="cubin", cache=cache)
        for key, (kernel, _) in zip(keys(each), made, strict=True):
            found[key] = entry(kernel)
    return {"triton": compiler_version(), "kernels": dict(sorted(found.items()))}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record, a line an entry."""
    lines = (f"  {json.dumps(key)}: {json.dumps(e)}" for key, e in record["kernels"].items())
    body = ",\n".join(lines)
    head = json.dumps(record["triton"])
    path.write_text(f'{{"triton": {head}, "kernels": {{\n{body}\n}}}}\n', encoding="utf-8")


def read_record(path: Path) -> dict[str, Any]:
    """Read a record."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def main(file: str) -> None:
    """Print the table and write the record, which finds most of its kernels in the cache."""
    began = time.monotonic()
    print(table())
    write_record(Path(file), make_record())
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
