"""Let one step hold running rows and a prompt's chunk: attention apart, linears together."""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from edgellama.optimize.passes.edit import insert_before, shared_initializer
from edgellama.optimize.passes.match import MICROSOFT, dim, operand
from edgellama.optimize.pipeline import BuildError

# Which token of the step each row of the batch, and each position of the chunk, is.
DECODE_ROWS, CHUNK_ROWS = "decode_rows", "chunk_rows"
# Where the attention of each token stands among the rows and the chunk behind one another.
TOKEN_ORDER = "token_order"
CHUNK = "chunk_"  # the chunk's inputs and outputs are called like the batch's, behind this
_PAST, _LENGTHS, _TOTAL = (3, 4), 5, 6  # operands of GroupQueryAttention
_PREFIX: Final = "mixed."


@dataclass(frozen=True)
class _Inputs:
    decode_rows: ir.Value
    chunk_rows: ir.Value
    token_order: ir.Value
    lengths: ir.Value
    total: ir.Value


def _inputs(graph: ir.Graph) -> _Inputs:
    """Add the inputs that all layers share, and let the ids be one row of tokens."""
    ids = next(value for value in graph.inputs if value.name == "input_ids")
    ids.shape = ir.Shape([1, "tokens"])
    int64, int32 = ir.DataType.INT64, ir.DataType.INT32
    found = _Inputs(
        ir.val(DECODE_ROWS, int64, ["batch", 1]),
        ir.val(CHUNK_ROWS, int64, [1, "chunk"]),
        ir.val(TOKEN_ORDER, int64, [1, "tokens"]),
        ir.val(f"{CHUNK}seqlens_k", int32, [1]),
        ir.val(f"{CHUNK}total_sequence_length", int32, []),
    )
    graph.inputs.extend(
        [found.decode_rows, found.chunk_rows, found.token_order, found.lengths, found.total]
    )
    return found


def mixed_attention(model: ir.Model) -> int:
    """Split each attention into rows and a chunk; returns how many. Needs `fuse_gqa` before.

    1. `GroupQueryAttention(qkv [B, S, W], past)` ->
       `rows = GroupQueryAttention(qkv[decode_rows] [batch, 1, W], past)`,
       `chunk = GroupQueryAttention(qkv[chunk_rows] [1, chunk, W], chunk_past)`,
       `(rows, chunk joined along the tokens)[token_order] [1, tokens, H]`.
    2. A graph that has `decode_rows` already: nothing to do.

    Everything else of the graph works on one row of tokens `[1, tokens]`, so that each weight is
    read once a step, whatever the step holds. The operator takes no empty batch: a step without
    rows, or without a chunk, names any token there, gives it a cache of its own that nobody reads,
    and leaves it out of `token_order`.
    """
    graph = model.graph
    attentions = [node for node in graph if node.op_type == "GroupQueryAttention"]
    if not attentions or any(value.name == DECODE_ROWS for value in graph.inputs):
        return 0
    shared = _inputs(graph)
    for node in attentions:
        _split(graph, node, shared)
    return len(attentions)


def _split(graph: ir.Graph, node: ir.Node, shared: _Inputs) -> None:
    packed, output = operand(node, 0), node.outputs[0]
    readers = [use.node for use in output.uses()]
    if len(readers) != 1:
        raise BuildError(f"{output.name} has {len(readers)} readers; the output projection is one")
    anchor, name = readers[0], f"{_PREFIX}{output.name}"
    heads, kv = (node.attributes[n].as_int() for n in ("num_heads", "kv_num_heads"))
    head_dim = dim(operand(node, 3), 3)
    width, features = (heads + 2 * kv) * head_dim, heads * head_dim
    (flat,) = insert_before(
        node, "Reshape", [packed, _constant(graph, [-1, width])], [f"{name}/tokens"]
    )
    (rows,) = _gather(node, flat, shared.decode_rows, f"{name}/rows")
    (chunk,) = _gather(node, flat, shared.chunk_rows, f"{name}/chunk")
    past = [_twin(graph.inputs, operand(node, index)) for index in _PAST]
    operands: list[ir.Value | None] = list(node.inputs)
    operands[0], operands[3], operands[4] = chunk, *past
    operands[_LENGTHS], operands[_TOTAL] = shared.lengths, shared.total
    attended = insert_before(
        anchor,
        "GroupQueryAttention",
        operands,
        [f"{name}/chunk_attention", *(f"{CHUNK}{value.name}" for value in node.outputs[1:3])],
        domain=MICROSOFT,
        attributes=dict(node.attributes),
    )
    for present, old in zip(attended[1:], node.outputs[1:3], strict=True):
        present.type, present.shape = old.type, _chunk_shape(old)
        graph.outputs.append(present)
    node.replace_input_with(0, rows)
    last = _constant(graph, [-1, features])
    (flat_rows,) = insert_before(anchor, "Reshape", [output, last], [f"{name}/flat_rows"])
    (flat_chunk,) = insert_before(anchor, "Reshape", [attended[0], last], [f"{name}/flat_chunk"])
    (joined,) = insert_before(
        anchor, "Concat", [flat_rows, flat_chunk], [f"{name}/joined"], attributes={"axis": 0}
    )
    (ordered,) = _gather(anchor, joined, shared.token_order, f"{name}/ordered")
    ordered.type, ordered.shape = output.type, output.shape
    reshape = flat_rows.producer()
    output.replace_all_uses_with(ordered)
    assert reshape is not None
    reshape.replace_input_with(0, output)
    output.shape = None


def _gather(anchor: ir.Node, data: ir.Value, indices: ir.Value, name: str) -> tuple[ir.Value, ...]:
    return insert_before(anchor, "Gather", [data, indices], [name], attributes={"axis": 0})


def _constant(graph: ir.Graph, values: list[int]) -> ir.Value:
    name = _PREFIX + "x".join(map(str, values))
    return shared_initializer(graph, name, ir.tensor(np.array(values, np.int64), name=name))


def _twin(inputs: MutableSequence[ir.Value], past: ir.Value) -> ir.Value:
    """Add the input of the chunk's cache beside the batch's."""
    twin = ir.Value(name=f"{CHUNK}{past.name}", type=past.type, shape=_chunk_shape(past))
    inputs.append(twin)
    return twin


def _chunk_shape(cache: ir.Value) -> ir.Shape:
    assert cache.shape is not None
    return ir.Shape([1, cache.shape[1], "chunk_capacity", cache.shape[3]])
