"""Fuse the decomposed root-mean-square norm into `RMSNormalization` (opset 23)."""

from __future__ import annotations

import onnx_ir as ir

from edgellama.optimize.passes.edit import clear_unused, insert_before, replace
from edgellama.optimize.passes.match import (
    operand,
    producer,
    scalar,
    split_commutative,
    uncast,
)


def _match(scaled: ir.Node) -> tuple[ir.Value, ir.Value, float] | None:
    """Return (x, scale, epsilon) when `scaled` is the last `Mul` of a norm."""
    found = split_commutative(scaled, "Mul") or split_commutative(scaled, "Cast")
    if found is None:
        return None
    narrowed, scale = found
    normalized = producer(uncast(narrowed.outputs[0]), "Mul")
    if normalized is None:
        return None
    inverse = split_commutative(normalized, "Reciprocal")
    if inverse is None:
        return None
    reciprocal, x = inverse
    root = producer(operand(reciprocal, 0), "Sqrt")
    added = producer(operand(root, 0), "Add") if root is not None else None
    split = split_commutative(added, "ReduceMean") if added is not None else None
    if split is None:
        return None
    mean, epsilon = split
    square = producer(operand(mean, 0), "Pow")
    if square is None or operand(square, 0) is not x or scalar(operand(square, 1)) != 2.0:
        return None
    if scalar(operand(mean, 1)) != -1.0:
        return None
    value = scalar(epsilon)
    if value is None:
        return None
    # Widened for the norm alone where its result is narrowed again; else x is that wide by itself.
    return (uncast(x) if narrowed is not normalized else x), scale, value


def fuse_rms_norm(model: ir.Model) -> int:
    """Fuse norms; returns how many.

    1. `Mul(scale, Mul(x, Reciprocal(Sqrt(Add(ReduceMean(Pow(x, 2), [-1]), eps)))))`, operands of
       `Mul` and `Add` in any order -> `RMSNormalization(x, scale, axis=-1, epsilon=eps)`.
    2. The same computed in float32 for a narrower `x`: `Mul(scale, Cast(norm(Cast(x))))` -> the
       same node, which computes in float32 by itself (`stash_type` 1) and scales in the type of x.
    3. Another exponent, axis or a computed epsilon: declined.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type != "Mul" or (found := _match(node)) is None:
            continue
        x, scale, epsilon = found
        old = node.outputs[0]
        (new,) = insert_before(
            node,
            "RMSNormalization",
            [x, scale],
            [f"{old.name}/rms_norm"],
            attributes={"axis": -1, "epsilon": epsilon},
        )
        replace(old, new)
        count += 1
    clear_unused(model)
    return count
