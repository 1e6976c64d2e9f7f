"""The project's operators as TensorRT's plugins see them: shapes, types and launches.

Written for `tensorrt.plugin`, whose module is handed over: there is none where no TensorRT is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from edgellama.optimize.kernels.kernel_files import CompiledKernel
from edgellama.optimize.kernels.pieces import MAX_PIECES, PIECE_LINES

# Members of `tensorrt.plugin`: its module, a tensor's description, a number known at run time.
Plugin: TypeAlias = Any
Tensor: TypeAlias = Any
Expression: TypeAlias = Any
Tensors: TypeAlias = Mapping[str, Tensor]
Attributes: TypeAlias = Mapping[str, Any]
# Profile's name of a number format -> that of `tensorrt.DataType`.
TYPES = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8", "fp8": "FP8"}
_ATTENTION = ("qkv", "past_key", "past_value", "rows", "cos", "sin", "key_scale", "value_scale")
_THREADS_A_WARP = 32


@dataclass(frozen=True)
class Launch:
    """The grid of a kernel, and the numbers it takes between its inputs and its outputs."""

    grid: tuple[Expression, Expression, Expression]
    numbers: tuple[Expression, ...]


@dataclass(frozen=True)
class Operator:
    """One operator: `describe` gives its outputs, `types` the types of inputs and outputs that a
    kernel was compiled for, `launch` how that is launched, `expect` the constants that a node's
    attributes and shapes ask of it."""

    name: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, type]
    outputs: int
    describe: Callable[[Plugin, Tensors, Attributes], tuple[Tensor, ...]]
    types: Callable[[CompiledKernel], Sequence[str]]
    launch: Callable[[Plugin, CompiledKernel, Tensors, Attributes], Launch]
    expect: Callable[[Attributes], Mapping[str, int]]


def _longest(plugin: Plugin, tensors: Tensors) -> Expression:
    """Return the tokens of the longest row: every row has one at least."""
    tokens, rows = tensors["qkv"].shape_expr[0], tensors["rows"].shape_expr[0]
    return plugin.max(tokens - rows + 1, 1)


def _padded(attributes: Attributes) -> int:
    return 1 << (int(attributes["group"]) - 1).bit_length()


def _tiles(plugin: Plugin, tensors: Tensors, attributes: Attributes, lines: int) -> Expression:
    return plugin.cdiv(_longest(plugin, tensors) * _padded(attributes), lines)


def _pieces(plugin: Plugin, tensors: Tensors, attributes: Attributes) -> Expression:
    """Return `count_pieces` of pieces.py for sizes that are known at run time."""
    tiles = _tiles(plugin, tensors, attributes, PIECE_LINES)
    each = tiles * int(attributes["kv_heads"]) * tensors["rows"].shape_expr[0]
    wanted = plugin.ShapeExpr(int(attributes["programs"])) // each
    cuts = plugin.max(plugin.min(wanted, MAX_PIECES - 1), 1)
    return cuts + plugin.min(cuts - 1, 1)


def _heads(attributes: Attributes) -> int:
    return int(attributes["kv_heads"]) * int(attributes["group"])


def _expect_heads(attributes: Attributes) -> Mapping[str, int]:
    return {"KV_HEADS": int(attributes["kv_heads"]), "GROUP": int(attributes["group"])}


def _inputs(kernel: CompiledKernel) -> list[str]:
    cache = TYPES[kernel.kv_dtype]
    return [TYPES[kernel.dtype], cache, cache, "INT32", *["FP32"] * 4]


def _describe_whole(plugin: Plugin, tensors: Tensors, attributes: Attributes) -> tuple[Tensor, ...]:
    qkv, past_key, past_value = (tensors[name] for name in _ATTENTION[:3])
    width = past_key.shape_expr[3] * _heads(attributes)
    attention = plugin.from_shape_expr((qkv.shape_expr[0], width), qkv.dtype)
    return attention, past_key.aliased(), past_value.aliased()


def _launch_whole(
    plugin: Plugin, kernel: CompiledKernel, tensors: Tensors, attributes: Attributes
) -> Launch:
    tiles = _tiles(plugin, tensors, attributes, int(kernel.constants["BLOCK_M"]))
    rows = tensors["rows"].shape_expr[0]
    capacity = tensors["past_key"].shape_expr[2]
    return Launch((tiles, int(attributes["kv_heads"]), rows), (capacity,))


def _describe_pieces(
    plugin: Plugin, tensors: Tensors, attributes: Attributes
) -> tuple[Tensor, ...]:
    past_key, past_value, cos = tensors["past_key"], tensors["past_value"], tensors["cos"]
    pieces, tokens = _pieces(plugin, tensors, attributes), tensors["qkv"].shape_expr[0]
    heads = _heads(attributes)
    # Float32, as the tables are: the plugin's types have no other source before it is built.
    partial = plugin.from_shape_expr((pieces, tokens, heads, past_key.shape_expr[3]), cos.dtype)
    logs = plugin.from_shape_expr((pieces, tokens, heads), cos.dtype)
    return partial, logs, past_key.aliased(), past_value.aliased()


def _launch_pieces(
    plugin: Plugin, kernel: CompiledKernel, tensors: Tensors, attributes: Attributes
) -> Launch:
    whole = _launch_whole(plugin, kernel, tensors, attributes)
    tiles, kv_heads, rows = whole.grid
    across = _pieces(plugin, tensors, attributes) * kv_heads
    return Launch((tiles, across, rows), (*whole.numbers, tensors["qkv"].shape_expr[0]))


def _describe_combined(
    plugin: Plugin, tensors: Tensors, attributes: Attributes
) -> tuple[Tensor, ...]:
    _, tokens, heads, size = (tensors["partial"].shape_expr[axis] for axis in range(4))
    dtype = plugin.data_type(TYPES[attributes["dtype"]])
    return (plugin.from_shape_expr((tokens, heads * size), dtype),)


def _launch_combined(
    plugin: Plugin, kernel: CompiledKernel, tensors: Tensors, attributes: Attributes
) -> Launch:
    pieces, tokens, heads = (tensors["logs"].shape_expr[axis] for axis in range(3))
    lines = tokens * heads
    return Launch((lines, 1, 1), (lines, pieces))


def _describe_linear(
    plugin: Plugin, tensors: Tensors, attributes: Attributes
) -> tuple[Tensor, ...]:
    x, codes = tensors["x"], tensors["codes"]
    sizes = [x.shape_expr[axis] for axis in range(len(x.shape_expr) - 1)]
    return (plugin.from_shape_expr((*sizes, codes.shape_expr[0]), x.dtype),)


def _launch_linear(
    plugin: Plugin, kernel: CompiledKernel, tensors: Tensors, attributes: Attributes
) -> Launch:
    x, outputs = tensors["x"].shape_expr, tensors["codes"].shape_expr[0]
    rows, inputs = x[0], x[len(x) - 1]
    for axis in range(1, len(x) - 1):
        rows = rows * x[axis]
    lines = kernel.constants.get("BLOCK_M")  # the one for a row at a time has none
    across = rows if lines is None else plugin.cdiv(rows, int(lines))
    tiles = plugin.cdiv(outputs, int(kernel.constants["BLOCK_N"]))
    return Launch((tiles, across, 1), (rows, outputs, inputs))


_HEADS: Mapping[str, type] = {"kv_heads": int, "group": int}
OPERATORS = (
    Operator(
        name="FusedGQA",
        inputs=_ATTENTION,
        attributes=_HEADS,
        outputs=3,
        describe=_describe_whole,
        types=lambda kernel: [*_inputs(kernel), TYPES[kernel.dtype], *_inputs(kernel)[1:3]],
        launch=_launch_whole,
        expect=_expect_heads,
    ),
    Operator(
        name="FusedGQAPieces",
        inputs=_ATTENTION,
        attributes={**_HEADS, "programs": int},
        outputs=4,
        describe=_describe_pieces,
        types=lambda kernel: [*_inputs(kernel), "FP32", "FP32", *_inputs(kernel)[1:3]],
        launch=_launch_pieces,
        expect=_expect_heads,
    ),
    Operator(
        name="CombinePieces",
        inputs=("partial", "logs"),
        attributes={"dtype": str},
        outputs=1,
        describe=_describe_combined,
        types=lambda kernel: ["FP32", "FP32", TYPES[kernel.dtype]],
        launch=_launch_combined,
        expect=lambda attributes: {},
    ),
    Operator(
        name="Int4Linear",
        inputs=("x", "codes", "scales"),
        attributes={},
        outputs=1,
        describe=_describe_linear,
        types=lambda kernel: [
            TYPES[kernel.dtype],
            "INT8",
            TYPES[kernel.dtype],
            TYPES[kernel.dtype],
        ],
        launch=_launch_linear,
        expect=lambda attributes: {},
    ),
)


def threads(kernel: CompiledKernel) -> int:
    """Return the threads of one program."""
    return kernel.warps * _THREADS_A_WARP
