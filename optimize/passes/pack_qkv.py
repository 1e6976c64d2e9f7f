"""Pack the query, key and value projections of a layer into one matrix product."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgellama.optimize.passes.edit import (
    add_initializer,
    clear_unused,
    insert_before,
    replace,
    shared_initializer,
)
from edgellama.optimize.passes.match import dim, dims, is_weight, operand

_PARTS = ("q_proj", "k_proj", "v_proj")


def concat_columns(weights: Sequence[ir.Value], name: str) -> ir.LazyTensor:
    """Join `[K, N_i]` weights to `[K, sum N_i]` when the result is read, not before."""
    tensors = [value.const_value for value in weights]
    if any(tensor is None for tensor in tensors):
        raise ValueError(f"{name}: a projection has no data")
    sources = [tensor for tensor in tensors if tensor is not None]
    rows = dims(sources[0].shape)[0]
    columns = sum(dims(tensor.shape)[1] for tensor in sources)

    def join() -> ir.TensorProtocol:
        return ir.Tensor(np.concatenate([t.numpy() for t in sources], axis=1), name=name)

    shape = ir.Shape([rows, columns])
    return ir.LazyTensor(join, dtype=sources[0].dtype, shape=shape, name=name)


def _projections(graph: ir.Graph) -> dict[str, dict[str, ir.Node]]:
    """Group the projections' `MatMul` nodes by layer prefix."""
    layers: dict[str, dict[str, ir.Node]] = {}
    for node in graph:
        if node.op_type != "MatMul" or not is_weight(operand(node, 1)):
            continue
        prefix, _, rest = (operand(node, 1).name or "").rpartition(".self_attn.")
        part = rest.removesuffix(".weight")
        if part in _PARTS:
            layers.setdefault(prefix, {})[part] = node
    return layers


def pack_qkv(model: ir.Model) -> int:
    """Pack each layer's three projections; returns how many layers were packed.

    1. `MatMul(x, Wq)`, `MatMul(x, Wk)`, `MatMul(x, Wv)` on one x
       -> `Split(MatMul(x, [Wq | Wk | Wv]), axis=-1)`.
    2. A layer that lacks a projection, or whose projections read different tensors: declined.
    """
    graph = model.graph
    count = 0
    order = {node: place for place, node in enumerate(graph)}
    for prefix, parts in _projections(graph).items():
        if len(parts) != len(_PARTS):
            continue
        nodes = [parts[part] for part in _PARTS]
        x = operand(nodes[0], 0)
        if any(operand(node, 0) is not x for node in nodes):
            continue
        weights = [operand(node, 1) for node in nodes]
        name = f"{prefix}.self_attn.qkv_proj.weight"
        packed = add_initializer(graph, name, concat_columns(weights, name))
        anchor = min(nodes, key=order.__getitem__)
        (product,) = insert_before(anchor, "MatMul", [x, packed], [f"{prefix}.qkv"])
        widths = [dim(value, 1) for value in weights]
        sizes_name = "attention.qkv_widths"
        sizes = shared_initializer(
            graph, sizes_name, ir.tensor(np.array(widths, np.int64), name=sizes_name)
        )
        outputs = insert_before(
            anchor,
            "Split",
            [product, sizes],
            [f"{prefix}.{part}" for part in _PARTS],
            attributes={"axis": -1},
        )
        for node, new in zip(nodes, outputs, strict=True):
            replace(node.outputs[0], new)
        count += 1
    clear_unused(model)
    return count
