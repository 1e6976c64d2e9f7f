"""The tables of tile sizes, `tiles/sm_<number>.toml`: one for each compute capability."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from edgellama.optimize.kernels.tile import Tile
from edgellama.profiles.kernels import FP8_SINCE, HEAD_SIZES, PTX_SINCE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

USES = ("decode", "prefill")
WIDE = "wide"  # for the launcher: chunks whose keys were appended before
WIDE_HEAD_SIZES = (64, 128)
# What TensorRT launches without asking for more, in bytes a program.
SHARED_LIMIT = 48 * 1024
# What a program may have when it is asked for, which a launcher does (CUDA programming guide,
# technical specifications by compute capability), in KiB.
SHARED_OPT_IN = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 110: 227, 120: 99, 121: 99}
_BITS = {"fp16": "float", "bf16": "float", "int8": "int8", "fp8": "fp8"}


@dataclass(frozen=True)
class Tiles:
    """The tiles of one compute capability, by use, head size and type of the cache."""

    sm: int
    table: Mapping[tuple[str, int, str], Tile]

    def tile(self, use: str, head_dim: int, kv_dtype: str) -> Tile:
        """Return the tile for `decode` (a token a row), `prefill` (chunks), or chunks that are
        `wide`, with more shared memory than a plugin gets.

        Raises ValueError for a head size or a cache that the kernels are not made for.
        """
        if use not in (*USES, WIDE):
            raise ValueError(f"use is {use!r}; it must be one of {(*USES, WIDE)}")
        sizes = WIDE_HEAD_SIZES if use == WIDE else HEAD_SIZES
        if head_dim not in sizes:
            raise ValueError(f"head_dim is {head_dim}; it must be one of {sizes}")
        if kv_dtype not in _BITS:
            raise ValueError(f"kv_dtype is {kv_dtype!r}; it must be one of {', '.join(_BITS)}")
        if kv_dtype == "fp8" and self.sm < FP8_SINCE:
            raise ValueError(
                f"kv_dtype is 'fp8' on compute capability {self.sm / 10}, which has no E4M3; it "
                f"needs {FP8_SINCE / 10} or later: use 'int8'"
            )
        return self.table[use, head_dim, _BITS[kv_dtype]]


@cache
def load_tiles(sm: int) -> Tiles:
    """Read the table of a compute capability, 89 for 8.9; raises ValueError for another one."""
    if sm not in PTX_SINCE:
        listed = ", ".join(map(str, PTX_SINCE))
        why = "7.5 compiles, but without its matrix units; " if sm == 75 else ""
        raise ValueError(f"sm is {sm}; the kernels have tiles for {listed}. {why}use another GPU")
    path = files("edgellama.optimize.kernels") / "tiles" / f"sm_{sm}.toml"
    raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return Tiles(
        sm,
        {
            (use, int(size), kind): Tile(**values)
            for use, sizes in raw.items()
            for size, kinds in sizes.items()
            for kind, values in kinds.items()
        },
    )
