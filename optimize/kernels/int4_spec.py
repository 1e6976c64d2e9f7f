"""Which INT4 linears are compiled: one for few rows, and two on the matrix units."""

from __future__ import annotations

from dataclasses import dataclass

from edgellama.optimize.kernels.int4_function import LINEAR
from edgellama.optimize.kernels.kernel_spec import FOLDER, TYPES, Constant, KernelSpec


@dataclass(frozen=True)
class LinearTile:
    """The sizes of one variant: `block_n` outputs of `block_m` rows at once on the matrix units.

    Where `block_m` is 1, it takes a row at a time and `groups` groups of inputs at once.
    """

    block_m: int
    block_n: int
    groups: int
    warps: int
    stages: int

    @property
    def is_row(self) -> bool:
        """Whether it takes a row at a time."""
        return self.block_m == 1

    @property
    def constants(self) -> dict[str, Constant]:
        """What the kernel is compiled with."""
        if self.is_row:
            return {"BLOCK_N": self.block_n, "GROUPS": self.groups}
        return {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n}


# By rows: one, up to 16, more. Each is right for any number.
TILES = (
    LinearTile(block_m=1, block_n=4, groups=8, warps=1, stages=1),
    LinearTile(block_m=16, block_n=32, groups=1, warps=4, stages=3),
    LinearTile(block_m=64, block_n=32, groups=1, warps=4, stages=2),
)


def int4_specs(dtype: str) -> tuple[KernelSpec, ...]:
    """Return the specs of `Int4Linear` for inputs and outputs of `dtype`, "fp16" or "bf16"."""
    own = f"*{TYPES[dtype]}"
    arguments = {
        "x": own,
        "codes": "*i8",
        "scales": own,
        "rows": "i32",
        "outputs": "i32",
        "inputs": "i32",
        "y": own,
    }
    return tuple(
        KernelSpec(
            op=LINEAR,
            tactic=tactic,
            module=f"{FOLDER}.{_function(tile)}",
            function=_function(tile),
            arguments=arguments,
            # Not the outputs: a vocabulary may have any size.
            aligned=("x", "codes", "scales", "inputs", "y"),
            constants=tile.constants,
            warps=tile.warps,
            stages=tile.stages,
            dtype=dtype,
            kv_dtype=dtype,
        )
        for tactic, tile in enumerate(TILES, 1)
    )


def _function(tile: LinearTile) -> str:
    return "int4_row" if tile.is_row else "int4_linear"
