"""Widen attention heads to the size that `GroupQueryAttention` can rotate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from edgellama.optimize.passes.edit import add_initializer, clear_unused
from edgellama.optimize.passes.match import dim, dims, operand, producer, single_user
from edgellama.optimize.passes.rotary import COS_TABLE, SIN_TABLE
from edgellama.profiles.plan import HEAD_MULTIPLE, padded

# onnxruntime: "head_size shall be a multiple of 16" where the operator rotates.
MULTIPLE = HEAD_MULTIPLE["ort"]
_Make: TypeAlias = Callable[[ir.TensorProtocol, str], ir.TensorProtocol]


def padded_head_dim(head_dim: int) -> int:
    """Return the head size that the operator gets."""
    return padded(head_dim, MULTIPLE)


def head_places(heads: int, head_dim: int) -> np.ndarray:
    """Return where each of `heads * head_dim` features goes among the widened heads.

    Rotation pairs feature i with i + half, so each half is padded at its own end.
    """
    wide, half = padded_head_dim(head_dim), head_dim // 2
    within = np.arange(head_dim)
    within = np.where(within < half, within, within - half + wide // 2)
    return (np.arange(heads)[:, None] * wide + within[None, :]).reshape(-1)


def _spread(
    tensor: ir.TensorProtocol, name: str, *, places: np.ndarray, size: int, axis: int
) -> ir.LazyTensor:
    """Return the tensor with its features of `axis` at `places` among `size`, the others 0."""
    shape = list(dims(tensor.shape))
    shape[axis] = size

    def read() -> ir.TensorProtocol:
        source = tensor.numpy()
        wide = np.zeros(shape, source.dtype)
        wide[(slice(None), places) if axis == 1 else (places,)] = source
        return ir.Tensor(wide, name=name)

    return ir.LazyTensor(read, dtype=tensor.dtype, shape=ir.Shape(shape), name=name)


def _swap_weight(node: ir.Node, index: int, make: _Make) -> None:
    """Replace a weight operand by what `make(tensor, new name)` returns."""
    graph, old = node.graph, operand(node, index)
    if not isinstance(graph, ir.Graph) or old.const_value is None:
        raise ValueError(f"input {index} of {node.name} is not a weight")
    name = f"{old.name}.wide_heads"
    node.replace_input_with(
        index,
        graph.initializers.get(name) or add_initializer(graph, name, make(old.const_value, name)),
    )


def _widen_table(fill: float, columns: int) -> _Make:
    def make(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
        table = tensor.numpy()
        extra = np.full((len(table), columns - table.shape[1]), fill, table.dtype)
        return ir.Tensor(np.concatenate([table, extra], axis=1), name=name)

    return make


def pad_heads(model: ir.Model) -> int:
    """Pad each head with zero features up to a multiple of 16; returns how many attentions.

    1. `GroupQueryAttention` whose head size is no multiple of 16, between two plain `MatMul`:
       zero columns in the packed projection, zero rows in the output projection, angles of 0 for
       the new features, a wider cache. Exact: the new features are 0 in queries, keys and values.
    2. A multiple of 16, as in every Llama 3: nothing to do.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type != "GroupQueryAttention":
            continue
        heads, kv = (node.attributes[n].as_int() for n in ("num_heads", "kv_num_heads"))
        project = producer(operand(node, 0), "MatMul")
        output = single_user(node.outputs[0])
        if project is None or output is None or output.op_type != "MatMul":
            continue
        head_dim = dim(operand(node, 3), 3)
        wide = padded_head_dim(head_dim)
        if wide == head_dim:
            continue
        total = heads + 2 * kv
        columns, rows = head_places(total, head_dim), head_places(heads, head_dim)
        _swap_weight(project, 1, partial(_spread, places=columns, size=total * wide, axis=1))
        _swap_weight(output, 1, partial(_spread, places=rows, size=heads * wide, axis=0))
        for index, fill in ((7, 1.0), (8, 0.0)):
            if operand(node, index).name in (COS_TABLE, SIN_TABLE):
                _swap_weight(node, index, _widen_table(fill, wide // 2))
        for value in (operand(node, 3), operand(node, 4), node.outputs[1], node.outputs[2]):
            assert value.shape is not None
            value.shape = ir.Shape([*value.shape[:3], wide])
        for value in (project.outputs[0], node.outputs[0]):
            value.shape = None
        count += 1
    clear_unused(model)
    return count
