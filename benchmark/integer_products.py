"""Products of bytes by ONNX Runtime, as an engine's linears of int8 weights are computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgellama.runtime.ort_session import open_model


def product_of_bytes(side: int, threads: int) -> Callable[[], object]:
    """Return what multiplies uint8 `[side, side]` by a constant int8 `[side, side]` once a call.

    The weight is a constant, so that it is packed before; sums are int32.
    """
    left = ir.val("left", ir.DataType.UINT8, (side, side))
    out = ir.val("out", ir.DataType.INT32, (side, side))
    weight = ir.val("weight", const_value=ir.tensor(np.ones((side, side), np.int8), name="weight"))
    node = ir.node("MatMulInteger", [left, weight], outputs=[out])
    graph = ir.Graph(
        [left], [out], nodes=[node], initializers=[weight], opset_imports={"": 21}, name="product"
    )
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = open_model(model, threads)
    feed = {"left": np.ones((side, side), np.uint8)}
    return lambda: session.run(None, feed)
