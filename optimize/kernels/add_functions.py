"""Give a graph with the project's own operators their bodies, so that any runtime can run it."""

from __future__ import annotations

import onnx_ir as ir

from edgellama.optimize.kernels.function_body import DOMAIN
from edgellama.optimize.kernels.gqa_function import (
    COMBINE,
    GQA,
    GQA_PIECES,
    Heads,
    combine_function,
    gqa_function,
    pieces_function,
)
from edgellama.optimize.kernels.int4_function import LINEAR, int4_linear_function

_TYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def add_functions(model: ir.Model) -> int:
    """Add a function for every operator of the domain; returns how many.

    A function is written for the heads and types of its nodes, which are those of every layer:
    raises ValueError for two layers that differ, and for an operator that has no body.
    """
    bodies: dict[str, object] = {}
    for node in model.graph:
        if node.domain != DOMAIN:
            continue
        kind = _kind(node)
        if bodies.setdefault(node.op_type, kind) != kind:
            raise ValueError(
                f"node {node.name}: {kind} differs from {bodies[node.op_type]} of another layer"
            )
    for name, kind in bodies.items():
        function = _body(name, kind)
        model.functions[function.identifier()] = function
    return len(bodies)


def _kind(node: ir.Node) -> object:
    """Return what the body of a node depends on."""
    if node.op_type == LINEAR:
        return LINEAR
    if node.op_type == COMBINE:
        return _TYPES[node.attributes["dtype"].as_string()]
    if node.op_type not in (GQA, GQA_PIECES):
        raise ValueError(f"node {node.name}: operator {DOMAIN}::{node.op_type} has no body")
    past = node.inputs[1]
    assert past is not None and past.shape is not None and past.dtype is not None
    size = past.shape[3]
    assert isinstance(size, int)
    kv_heads, group = (node.attributes[name].as_int() for name in ("kv_heads", "group"))
    return Heads(kv_heads, group, size, past.dtype)


def _body(name: str, kind: object) -> ir.Function:
    if isinstance(kind, Heads):
        return gqa_function(kind) if name == GQA else pieces_function(kind)
    if isinstance(kind, ir.DataType):
        return combine_function(kind)
    return int4_linear_function()
