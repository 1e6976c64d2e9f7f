"""Widen attention heads to the size that `GroupQueryAttention` can rotate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from edgellama.optimize.passes.edit import (
    add_initializer,
    clear_unused,
    insert_before,
    shared_initializer,
)
from edgellama.optimize.passes.match import dim, operand
from edgellama.optimize.passes.quantize_cache import KEY_SCALE, VALUE_SCALE
from edgellama.profiles.plan import HEAD_MULTIPLE, padded

# onnxruntime: "head_size shall be a multiple of 16" where the operator rotates.
MULTIPLE = HEAD_MULTIPLE["ort"]
_COS, _SIN = 7, 8
_Make: TypeAlias = Callable[[np.ndarray], np.ndarray]


def padded_head_dim(head_dim: int) -> int:
    """Return the head size that the operator gets."""
    return padded(head_dim, MULTIPLE)


def _swap_constant(node: ir.Node, index: int, make: _Make) -> None:
    """Replace a constant operand by what `make` returns; nodes that share one share the new one."""
    graph, old = node.graph, operand(node, index)
    if not isinstance(graph, ir.Graph) or old.const_value is None:
        raise ValueError(f"input {index} of {node.name} is not a constant")
    name = f"{old.name}.wide_heads"
    if name not in graph.initializers:
        add_initializer(graph, name, ir.tensor(make(old.const_value.numpy()), name=name))
    node.replace_input_with(index, graph.initializers[name])


def _widen(array: np.ndarray, heads: int, half: int, extra: int) -> np.ndarray:
    """Return channels [heads * 2 * half] with `extra` ones behind each half of a head."""
    halves = array.reshape(heads, 2, half)
    return np.pad(halves, ((0, 0), (0, 0), (0, extra)), constant_values=1).reshape(-1)


class _Shapes:
    """The constants of the reshapes around an attention, shared by all layers."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph

    def __call__(self, name: str, values: list[int]) -> ir.Value:
        label = f"heads.{name}"
        array = np.array(values, np.int64)
        return shared_initializer(self._graph, label, ir.tensor(array, name=label))


def pad_heads(model: ir.Model) -> int:
    """Pad each head with zero features up to a multiple of 16; returns how many attentions.

    1. `GroupQueryAttention(qkv)` whose head size D is no multiple of 16 -> the same on wider heads:
       qkv [B, S, heads * D] is padded behind each half of a head, the output is cut there, angles
       of 0 turn the new features, the cache is wider. Exact: the new features are 0 in queries,
       keys and values. Rotation pairs feature i with i + D / 2, hence the halves. No weight
       changes, so a quantised one keeps its blocks.
    2. A multiple of 16, as in every Llama 3: nothing to do.
    """
    shapes = _Shapes(model.graph)
    count = 0
    for node in list(model.graph):
        if node.op_type != "GroupQueryAttention":
            continue
        head_dim = dim(operand(node, 3), 3)
        wide = padded_head_dim(head_dim)
        if wide == head_dim:
            continue
        heads, kv = (node.attributes[n].as_int() for n in ("num_heads", "kv_num_heads"))
        half, extra, total = head_dim // 2, (wide - head_dim) // 2, heads + 2 * kv
        _pad_input(node, shapes, total, half, extra)
        _cut_output(node, shapes, heads, half, wide // 2)
        for index, fill in ((_COS, 1.0), (_SIN, 0.0)):

            def table(array: np.ndarray, fill: float = fill, extra: int = extra) -> np.ndarray:
                return np.pad(array, ((0, 0), (0, extra)), constant_values=fill)

            if dim(operand(node, index), 1) == half:
                _swap_constant(node, index, table)
        for index in (KEY_SCALE, VALUE_SCALE):
            if index < len(node.inputs) and node.inputs[index] is not None:

                def steps(
                    array: np.ndarray, kv: int = kv, half: int = half, extra: int = extra
                ) -> np.ndarray:
                    return _widen(array, kv, half, extra)

                _swap_constant(node, index, steps)
        for value in (operand(node, 3), operand(node, 4), node.outputs[1], node.outputs[2]):
            assert value.shape is not None
            value.shape = ir.Shape([*value.shape[:3], wide])
        count += 1
    clear_unused(model)
    return count


def _pad_input(node: ir.Node, shapes: _Shapes, total: int, half: int, extra: int) -> None:
    """Widen the packed projection [B, S, total * 2 * half]."""
    name = (operand(node, 0).name or "") + "/heads"
    split = shapes("split", [0, 0, total, 2, half])
    (parts,) = insert_before(node, "Reshape", [operand(node, 0), split], [f"{name}/split"])
    pads = shapes("pads", [0, 0, 0, 0, 0, 0, 0, 0, 0, extra])
    (padded_parts,) = insert_before(node, "Pad", [parts, pads], [f"{name}/padded"])
    joined = shapes("joined", [0, 0, total * 2 * (half + extra)])
    (qkv,) = insert_before(node, "Reshape", [padded_parts, joined], [f"{name}/joined"])
    node.replace_input_with(0, qkv)


def _cut_output(node: ir.Node, shapes: _Shapes, heads: int, half: int, wide_half: int) -> None:
    """Cut the output [B, S, heads * 2 * wide_half] back to the head size of the model."""
    output = node.outputs[0]
    readers = [(use.node, use.idx) for use in output.uses()]
    if len(readers) != 1:
        raise ValueError(f"{output.name} has {len(readers)} readers; the output projection is one")
    ((anchor, index),) = readers
    name = f"{output.name}/heads"
    split = shapes("output_split", [0, 0, heads, 2, wide_half])
    (parts,) = insert_before(anchor, "Reshape", [output, split], [f"{name}/split"])
    bounds = [
        shapes("output_start", [0]),
        shapes("output_end", [half]),
        shapes("output_axis", [4]),
    ]
    (cut,) = insert_before(anchor, "Slice", [parts, *bounds], [f"{name}/cut"])
    joined = shapes("output_joined", [0, 0, heads * 2 * half])
    (narrow,) = insert_before(anchor, "Reshape", [cut, joined], [f"{name}/joined"])
    narrow.type, narrow.shape = output.type, output.shape
    output.shape = None
    anchor.replace_input_with(index, narrow)
