"""Give the logits out in float32, whatever the graph computes in."""

from __future__ import annotations

import onnx_ir as ir

from edgellama.optimize.passes.edit import replace


def float_logits(model: ir.Model) -> int:
    """Cast the output `logits` to float32; returns 1, or 0 where it is float32 already.

    A host reads them, and a device without a library for 16-bit floats must be able to.
    """
    graph = model.graph
    logits = next(value for value in graph.outputs if value.name == "logits")
    producer = logits.producer()
    if logits.dtype == ir.DataType.FLOAT or producer is None:
        return 0
    wide = ir.Value(name="logits/float32")
    node = ir.node(
        "Cast",
        inputs=[logits],
        attributes={"to": ir.DataType.FLOAT.value},
        outputs=[wide],
        name="logits/Cast",
    )
    wide.type, wide.shape = ir.TensorType(ir.DataType.FLOAT), logits.shape
    graph.append(node)
    replace(logits, wide)
    node.replace_input_with(0, logits)
    return 1
