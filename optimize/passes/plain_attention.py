"""Spell attention out over a cache of fixed capacity: for runtimes without layers for it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgellama.optimize.passes.cache_inputs import (
    cache_mask,
    integers,
    write_indices,
    write_positions,
)
from edgellama.optimize.passes.edit import clear_unused, insert_before, replace, shared_initializer
from edgellama.optimize.passes.match import dim, operand

# Instead of the scores that must not count: far below any, and no infinity to subtract.
_NEVER = -1e30
_FLOAT = ir.DataType.FLOAT


def _scalar(graph: ir.Graph, name: str, value: float, dtype: ir.DataType) -> ir.Value:
    array = np.array(value, np.float32).astype(dtype.numpy())
    return shared_initializer(graph, name, ir.tensor(array, dtype=dtype, name=name))


def _attend(node: ir.Node, keys: ir.Value, values: ir.Value, mask: ir.Value) -> ir.Value:
    """Insert softmax(scale q k^T) v before `node`; returns [B, heads, S, D].

    The query heads of a group stand behind each other, [B, kv_heads, group x S, D], so that each
    key and value is read once and never repeated. The softmax is computed in float32.
    """
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    query, past = operand(node, 0), operand(node, 4)
    heads, features = dim(query, 1), dim(query, 3)
    kv_heads, dtype = dim(past, 1), past.dtype
    assert dtype is not None
    group = heads // kv_heads
    name = node.outputs[0].name or ""
    # 0 keeps the batch, -1 is what remains: the sequence.
    grouped = integers(graph, "attention.grouped", [0, kv_heads, -1, features])
    by_head = integers(graph, "attention.by_head", [0, kv_heads, group, -1, dim(keys, 2)])
    apart = integers(graph, "attention.apart", [0, heads, -1, features])
    joined = integers(graph, "attention.joined", [0, kv_heads, -1, dim(keys, 2)])
    scale = _scalar(graph, "attention.scale", node.attributes["scale"].as_float(), dtype)
    never = _scalar(graph, "attention.never", _NEVER, _FLOAT)
    axes = integers(graph, "attention.mask_axes", [2])

    def insert(op_type: str, inputs: list[ir.Value], **attributes: object) -> ir.Value:
        label = f"{name}/{op_type.lower()}.{len(inserted)}"
        (value,) = insert_before(node, op_type, inputs, [label], attributes=attributes)
        inserted.append(value)
        return value

    inserted: list[ir.Value] = []
    rows = insert("Reshape", [insert("Mul", [query, scale]), grouped])
    turned = insert("Transpose", [keys], perm=[0, 1, 3, 2])
    scores = insert("Reshape", [insert("MatMul", [rows, turned]), by_head])
    wide = insert("Cast", [scores], to=_FLOAT.value)
    seen = insert("Where", [insert("Unsqueeze", [mask, axes]), wide, never])
    shares = insert("Cast", [insert("Softmax", [seen], axis=-1)], to=dtype.value)
    mixed = insert("MatMul", [insert("Reshape", [shares, joined]), values])
    return insert("Reshape", [mixed, apart])


def plain_attention(model: ir.Model, capacity: int) -> int:
    """Rewrite attentions over a growing past; returns how many.

    1. `Attention(q, k, v, mask, past_k, past_v) -> y, present_k, present_v`
       -> `present = ScatterElements(past, positions, new, axis=2)` for keys and values, which a
       runtime may do in place, and matrix products and a softmax over the whole capacity under the
       mask `kv_index <= position_id`.
    2. An attention without a past: declined.

    The graph gains the input `write_indices` int64 [batch], where a row's new tokens go.
    """
    graph = model.graph
    count = 0
    for node in list(graph):
        if node.op_type != "Attention" or len(node.inputs) < 6:
            continue
        write_indices(graph)
        mask, caches = cache_mask(graph, capacity), []
        for new, past, present in zip(
            node.inputs[1:3], node.inputs[4:6], node.outputs[1:3], strict=True
        ):
            assert new is not None and past is not None
            shape = insert_before(node, "Shape", [new], [f"{present.name}/shape"])
            positions = insert_before(
                node, "Expand", [write_positions(graph), *shape], [f"{present.name}/positions"]
            )
            (cache,) = insert_before(
                node,
                "ScatterElements",
                [past, *positions, new],
                [f"{present.name}/scatter"],
                attributes={"axis": 2},
            )
            cache.type = past.type
            cache.shape = ir.Shape(["batch", dim(past, 1), capacity, dim(past, 3)])
            caches.append(cache)
        replace(node.outputs[0], _attend(node, caches[0], caches[1], mask))
        for old, cache in zip(node.outputs[1:3], caches, strict=True):
            replace(old, cache)
        count += 1
    clear_unused(model)
    return count
