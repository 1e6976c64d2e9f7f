"""Fuse rotation, cache append and attention into the operators of target `trt-plugin`."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgellama.optimize.kernels.function_body import DOMAIN
from edgellama.optimize.kernels.gqa_function import COMBINE, GQA, GQA_PIECES
from edgellama.optimize.kernels.pieces import cuts_pasts
from edgellama.optimize.passes.attention_pattern import AttentionPattern, match_attention
from edgellama.optimize.passes.cache_inputs import integers, made, write_indices
from edgellama.optimize.passes.edit import (
    add_initializer,
    clear_unused,
    insert_before,
    replace,
    shared_initializer,
)
from edgellama.optimize.passes.match import dim, operand
from edgellama.optimize.passes.round_cache import RoundedCache

_ROWS, _SHAPE = "cache.rows", "cache.token_shape"
_DTYPES = {ir.DataType.FLOAT: "fp32", ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}


def _rows(graph: ir.Graph) -> ir.Value:
    """Return the rows of a run, int32 [batch, 4], computed once from the graph's inputs.

    Row b of `input_ids` [batch, sequence] is slot b of the caches: its first token is b x sequence,
    its tokens are `sequence`, and `write_indices` are held before.
    """
    found = made(graph, _ROWS)
    if found is not None:
        return found
    first = next(iter(graph))
    ids = next(value for value in graph.inputs if value.name == "input_ids")
    zero, one = integers(graph, f"{_ROWS}.zero", 0), integers(graph, f"{_ROWS}.one", 1)
    axis, column = integers(graph, f"{_ROWS}.axis", [0]), integers(graph, f"{_ROWS}.column", [1])

    def insert(op_type: str, name: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        (value,) = insert_before(
            first, op_type, list(inputs), [f"{_ROWS}.{name}"], attributes=attributes
        )
        return value

    batch = insert("Shape", "batch", ids, start=0, end=1)
    length = insert("Shape", "length", ids, start=1, end=2)
    slots = insert("Range", "slots", zero, insert("Squeeze", "batch_size", batch, axis), one)
    begins = insert("Mul", "begins", slots, length)
    counts = insert("Expand", "counts", length, batch)
    columns = [
        insert("Unsqueeze", f"column.{index}", value, column)
        for index, value in enumerate((slots, begins, counts, write_indices(graph)))
    ]
    table = insert("Concat", "table", *columns, axis=1)
    (rows,) = insert_before(
        first, "Cast", [table], [_ROWS], attributes={"to": ir.DataType.INT32.value}
    )
    rows.type, rows.shape = ir.TensorType(ir.DataType.INT32), ir.Shape(["batch", 4])
    return rows


def _token_shape(graph: ir.Graph) -> ir.Value:
    """Return the shape int64 [3] of hidden states, [batch, sequence, -1], computed once."""
    found = made(graph, _SHAPE)
    if found is not None:
        return found
    first = next(iter(graph))
    ids = next(value for value in graph.inputs if value.name == "input_ids")
    shape = insert_before(first, "Shape", [ids], [f"{_SHAPE}.ids"])
    rest = integers(graph, f"{_SHAPE}.rest", [-1])
    (joined,) = insert_before(first, "Concat", [*shape, rest], [_SHAPE], attributes={"axis": 0})
    return joined


def _scales(
    graph: ir.Graph, layer: str, kind: str, rounded: RoundedCache | None, heads: int, size: int
) -> ir.Value:
    """Return the steps float32 [kv_heads, head_dim] of a cache; ones, shared, of a float one."""
    if rounded is None:
        ones = np.ones((heads, size), np.float32)
        return shared_initializer(graph, "kv_scale.none", ir.tensor(ones, name="kv_scale.none"))
    steps = np.broadcast_to(rounded.steps, (heads * size,)).reshape(heads, size)
    if not (steps > 0).all():
        raise ValueError(f"scales of {layer}.{kind} must be positive numbers")
    name = f"kv_scale.{layer}.{kind}"
    return add_initializer(graph, name, ir.tensor(np.ascontiguousarray(steps), name=name))


def _fuse(node: ir.Node, found: AttentionPattern, programs: int | None) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    pasts = (operand(node, 4), operand(node, 5))
    layer = (pasts[0].name or "").split(".")[1]
    heads, size = found.kv_heads, dim(pasts[0], 3)
    group = found.num_heads // heads
    compute = pasts[0].dtype
    assert compute is not None
    keys, values = found.rounding or (None, None)
    width = (found.num_heads + 2 * heads) * size
    flat_shape = integers(graph, "attention.tokens", [-1, width])
    (flat,) = insert_before(node, "Reshape", [found.qkv, flat_shape], [f"{layer}/qkv"])
    flat.type, flat.shape = ir.TensorType(compute), ir.Shape(["tokens", width])
    inputs = [
        flat,
        *pasts,
        _rows(graph),
        found.cos,
        found.sin,
        _scales(graph, layer, "key", keys, heads, size),
        _scales(graph, layer, "value", values, heads, size),
    ]
    attributes: dict[str, object] = {"kv_heads": heads, "group": group}
    names = [f"{layer}/present.key", f"{layer}/present.value"]
    if programs is None:
        attended, *presents = insert_before(
            node, GQA, inputs, [f"{layer}/attention", *names], domain=DOMAIN, attributes=attributes
        )
    else:
        partial, logs, *presents = insert_before(
            node,
            GQA_PIECES,
            inputs,
            [f"{layer}/partial", f"{layer}/logs", *names],
            domain=DOMAIN,
            attributes={**attributes, "programs": programs},
        )
        (attended,) = insert_before(
            node,
            COMBINE,
            [partial, logs],
            [f"{layer}/attention"],
            domain=DOMAIN,
            attributes={"dtype": _DTYPES[compute]},
        )
    (output,) = insert_before(
        node, "Reshape", [attended, _token_shape(graph)], [f"{layer}/attended"]
    )
    replace(found.output, output)
    for old, new in zip(node.outputs[1:3], presents, strict=True):
        replace(old, new)
    codes = keys.codes if keys is not None else compute
    for value in (*pasts, *presents):
        value.type = ir.TensorType(codes)


def fuse_attention(model: ir.Model, programs: int | None) -> int:
    """Fuse attentions into one node each; returns how many.

    Needs `fuse_rotary` with float32 tables and packed `QKV` before. `programs` is how many a launch
    should have: where a row's heads are fewer, its past is cut in pieces.

    1. `Reshape(Transpose(Attention(rotary(q), rotary(k), v, mask, past...)))` with q, k, v split
       from one packed projection -> `FusedGQA(qkv, past, rows, tables, scales)`, or with pieces
       `FusedGQAPieces` and `CombinePieces`. Keys and values that are rounded to int8 or E4M3 before
       -> a cache of that type with the same steps.
    2. Another scale of the logits, or anything else between projection and attention: declined.

    The graph gains the input `write_indices` int64 [batch], where a row's new tokens go.
    """
    graph = model.graph
    count = 0
    for node in list(graph):
        if node.op_type != "Attention" or (found := match_attention(node)) is None:
            continue
        scale = node.attributes["scale"].as_float()
        if not math.isclose(scale, dim(operand(node, 4), 3) ** -0.5, rel_tol=1e-6):
            continue
        _fuse(node, found, programs if cuts_pasts(programs, found.kv_heads) else None)
        count += 1
    clear_unused(model)
    if count:
        model.opset_imports.setdefault(DOMAIN, 1)
    return count
