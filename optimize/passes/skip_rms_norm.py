"""Fuse a residual addition and the norm behind it into `SkipSimplifiedLayerNormalization`."""

from __future__ import annotations

import onnx_ir as ir

from edgellama.optimize.passes.edit import clear_unused, insert_before, replace
from edgellama.optimize.passes.match import MICROSOFT, operand, producer


def fuse_skip_rms_norm(model: ir.Model) -> int:
    """Fuse residual additions into norms; returns how many.

    1. `s = Add(a, b); RMSNormalization(s, scale)` -> `SkipSimplifiedLayerNormalization(a, b,
       scale)`, whose fourth output is s for the next residual.
    2. A norm of anything but a sum (the first of the model): declined.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type != "RMSNormalization":
            continue
        added = producer(operand(node, 0), "Add")
        if added is None:
            continue
        total, old = added.outputs[0], node.outputs[0]
        normalized, _, _, residual = insert_before(
            added,
            "SkipSimplifiedLayerNormalization",
            [operand(added, 0), operand(added, 1), operand(node, 1)],
            [f"{old.name}/skip", f"{old.name}/mean", f"{old.name}/inv", f"{total.name}/residual"],
            domain=MICROSOFT,
            attributes={"epsilon": node.attributes["epsilon"].as_float()},
        )
        replace(old, normalized)
        replace(total, residual)
        count += 1
    clear_unused(model)
    if count:
        model.opset_imports.setdefault(MICROSOFT, 1)
    return count
