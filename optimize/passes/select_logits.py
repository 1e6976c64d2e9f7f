"""Compute logits only for the positions asked for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgellama.optimize.passes.edit import insert_before, replace, shared_initializer
from edgellama.optimize.passes.match import operand, producer

LOGITS_INDICES = "logits_indices"


def select_logits(model: ir.Model) -> int:
    """Gather the wanted hidden states before the head; returns 1, or 0 when it was done before.

    `logits [B, S, V] = MatMul(hidden [B, S, H], W)` -> `MatMul(Gather(Reshape(hidden, [B*S, H]),
    logits_indices), W)`: the graph gains the input `logits_indices` int64 [rows] into the B*S
    positions, and `logits` becomes [rows, V]. The head of a 128,256-entry vocabulary is the widest
    linear; for a 512-token chunk its float32 output alone would be 262 MB.
    """
    graph = model.graph
    if any(value.name == LOGITS_INDICES for value in graph.inputs):
        return 0
    logits = next(value for value in graph.outputs if value.name == "logits")
    head = producer(logits, "MatMul")
    if head is None or logits.shape is None:
        return 0
    hidden = operand(head, 0)
    weight = operand(head, 1)
    features = weight.shape[0] if weight.shape is not None else None
    if not isinstance(features, int):
        raise ValueError("the head's weight has no static shape")
    rows = ir.val(LOGITS_INDICES, ir.DataType.INT64, ["rows"])
    graph.inputs.append(rows)
    flat_shape = shared_initializer(
        graph, "head.flat_shape", ir.tensor(np.array([-1, features], np.int64))
    )
    (flat,) = insert_before(head, "Reshape", [hidden, flat_shape], ["head.flat"])
    (wanted,) = insert_before(head, "Gather", [flat, rows], ["head.rows"], attributes={"axis": 0})
    (new,) = insert_before(head, "MatMul", [wanted, weight], ["head.logits"])
    vocab = logits.shape[-1]
    replace(logits, new)
    graph.remove(head, safe=True)
    new.shape = ir.Shape(["rows", vocab])
    return 1
