"""Which kernel is compiled with what: all that the compiler needs, without its library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.optimize.kernels.pieces import MAX_PIECES
from edgellama.optimize.kernels.tile import Tile
from edgellama.optimize.kernels.tiles import USES, Tiles, load_tiles

Constant = int | float | bool
FOLDER = "edgellama.optimize.kernels"
# Profile's name of a number format -> Triton's.
TYPES = {"fp16": "fp16", "bf16": "bf16", "int8": "i8", "fp8": "fp8e4nv"}
_INPUTS = ("qkv", "past_key", "past_value", "rows", "cos", "sin", "key_scale", "value_scale")
COMBINE_WARPS = 4


@dataclass(frozen=True)
class KernelSpec:
    """One kernel to compile: function `function` of module `module` computes operator `op` of the
    graph, as the `tactic`-th way to do so (from 1).

    `arguments` are the types of its arguments in their order, "*fp16" a pointer and "i32" a
    number; `aligned` names those whose value is a multiple of 16. `constants` are known when it is
    compiled.
    """

    op: str
    tactic: int
    module: str
    function: str
    arguments: Mapping[str, str]
    aligned: tuple[str, ...]
    constants: Mapping[str, Constant]
    warps: int
    stages: int
    dtype: str
    kv_dtype: str

    def __post_init__(self) -> None:
        if self.tactic < 1:
            raise ValueError(f"tactic is {self.tactic}; TensorRT counts from 1")
        unknown = [name for name in self.aligned if name not in self.arguments]
        if unknown:
            raise ValueError(f"aligned names {unknown}; arguments are {list(self.arguments)}")

    @property
    def name(self) -> str:
        """A name that no other spec of an engine has; part of a file's name."""
        return f"{self.function}_{self.dtype}_{self.kv_dtype}_{self.tactic}"


def _attention_types(shape: AttentionShape) -> dict[str, str]:
    kinds = {"qkv": TYPES[shape.dtype], "rows": "i32"}
    cache = TYPES[shape.kv_dtype]
    kinds |= dict.fromkeys(("past_key", "past_value"), cache)
    return {name: f"*{kinds.get(name, 'fp32')}" for name in _INPUTS}


def attention_constants(shape: AttentionShape, tile: Tile, *, append: bool) -> dict[str, Constant]:
    """Return the constants of `fused_gqa` and `fused_gqa_pieces`."""
    return {
        "KV_HEADS": shape.kv_heads,
        "GROUP": shape.group,
        "D": shape.head_dim,
        "SCALE": shape.scale,
        "APPEND": append,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "NEW_N": tile.new_n,
    }


def attention_spec(
    shape: AttentionShape, tile: Tile, tactic: int, *, pieces: bool, append: bool = True
) -> KernelSpec:
    """Return the attention of one tile, over a whole past or over pieces of it."""
    arguments = {**_attention_types(shape), "capacity": "i32"}
    cache = f"*{TYPES[shape.kv_dtype]}"
    if pieces:
        arguments |= {"tokens": "i32", "partial": "*fp32", "logs": "*fp32"}
    else:
        arguments |= {"attention": f"*{TYPES[shape.dtype]}"}
    arguments |= {"present_key": cache, "present_value": cache}
    function = "fused_gqa_pieces" if pieces else "fused_gqa"
    pointers = [name for name, kind in arguments.items() if kind.startswith("*")]
    return KernelSpec(
        op="FusedGQAPieces" if pieces else "FusedGQA",
        tactic=tactic,
        module=f"{FOLDER}.{function}",
        function=function,
        arguments=arguments,
        aligned=tuple(pointers),  # head sizes divide by 16 already: a capacity need not
        constants=attention_constants(shape, tile, append=append),
        warps=tile.warps,
        stages=tile.stages,
        dtype=shape.dtype,
        kv_dtype=shape.kv_dtype,
    )


def combine_constants(shape: AttentionShape) -> dict[str, Constant]:
    """Return the constants of `combine_pieces`."""
    return {"D": shape.head_dim, "PIECES": MAX_PIECES}


def combine_spec(shape: AttentionShape) -> KernelSpec:
    """Return the kernel that combines the pieces."""
    arguments = {
        "partial": "*fp32",
        "logs": "*fp32",
        "lines": "i32",
        "pieces": "i32",
        "attention": f"*{TYPES[shape.dtype]}",
    }
    return KernelSpec(
        op="CombinePieces",
        tactic=1,
        module=f"{FOLDER}.combine_pieces",
        function="combine_pieces",
        arguments=arguments,
        aligned=("partial", "logs", "attention"),
        constants=combine_constants(shape),
        warps=COMBINE_WARPS,
        stages=1,
        dtype=shape.dtype,
        kv_dtype=shape.dtype,
    )


def attention_specs(shape: AttentionShape, sm: int, *, pieces: bool) -> tuple[KernelSpec, ...]:
    """Return what TensorRT needs for the attention of a model on a GPU.

    Tactic 1 has the tile for a token a row, tactic 2 the one for chunks; each is right for both.
    Raises ValueError for what the kernels are not made for.
    """
    tiles: Tiles = load_tiles(sm)
    found = [
        attention_spec(
            shape, tiles.tile(use, shape.head_dim, shape.kv_dtype), tactic, pieces=pieces
        )
        for tactic, use in enumerate(USES, 1)
    ]
    return (*found, combine_spec(shape)) if pieces else tuple(found)
