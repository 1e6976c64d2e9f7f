"""Compute fp8 linears where the runtime has no fp8 product: widen the codes, scale the result."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from edgellama.optimize.float_rows import Floats
from edgellama.optimize.passes.edit import add_lazy, clear_unused, insert_before, replace
from edgellama.optimize.passes.linear_weight import linear_weight, read_quantized
from edgellama.optimize.passes.match import constant, operand, producer
from edgellama.optimize.quantized_weight import QuantizedWeight
from edgellama.optimize.weight_tensors import whole_scales

_FP8 = ir.DataType.FLOAT8E4M3FN
_TO_FLOAT = {"to": ir.DataType.FLOAT.value}


def _product_scale(weight: QuantizedWeight, step: np.float32) -> Floats:
    scales = whole_scales(weight)[:, 0] * step
    return scales[0].reshape(()) if weight.layout.per_tensor else scales


def _codes_as_floats(anchor: ir.Node, quantize: ir.Node) -> ir.Value:
    """Insert `Cast(Cast(x / step, fp8))` before `anchor`.

    Not `QuantizeLinear`: ONNX Runtime moves one up through reshapes and slices, which have no fp8.
    """
    name = quantize.outputs[0].name
    divided = insert_before(anchor, "Div", quantize.inputs[:2], [f"{name}.unit"])
    to_fp8 = {"to": _FP8.value, "saturate": 1}
    coded = insert_before(anchor, "Cast", divided, [f"{name}.fp8"], attributes=to_fp8)
    (wide,) = insert_before(anchor, "Cast", coded, [f"{name}.wide"], attributes=_TO_FLOAT)
    return wide


def widen_fp8(model: ir.Model) -> int:
    """Rewrite fp8 linears; returns how many.

    1. `MatMul(DequantizeLinear(QuantizeLinear(x)), DequantizeLinear(W8 [K, N]))` with a scale of
       the whole weight or of each output -> `Mul(MatMul(codes of x, Cast(W8)), scale of x * scales
       of W)`. ONNX Runtime widens W8 once, when it loads the engine; `DequantizeLinear` it would
       run at every step.
    2. An input that is not fp8: declined.
    """
    graph = model.graph
    count = 0
    codes: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        found = linear_weight(node)
        if found is None or found.reader is None or found.data.dtype != _FP8:
            continue
        dequantize = producer(operand(node, 0), "DequantizeLinear")
        step = constant(operand(dequantize, 1)) if dequantize is not None else None
        if dequantize is None or step is None:
            continue
        quantize = producer(operand(dequantize, 0), "QuantizeLinear")
        if quantize is None:
            continue
        coded = quantize.outputs[0]
        if coded not in codes:
            codes[coded] = _codes_as_floats(node, quantize)
        weight = read_quantized(found.reader)
        shape = [] if weight.layout.per_tensor else [weight.layout.outputs]
        scale = add_lazy(
            graph,
            f"{found.name}.product_scale",
            ir.DataType.FLOAT,
            shape,
            partial(_product_scale, weight, np.float32(step.item())),
        )
        (wide,) = insert_before(
            node, "Cast", [found.data], [f"{found.name}.wide"], attributes=_TO_FLOAT
        )
        old = node.outputs[0]
        (product,) = insert_before(node, "MatMul", [codes[coded], wide], [f"{old.name}/product"])
        (new,) = insert_before(node, "Mul", [product, scale], [f"{old.name}/fp8"])
        replace(old, new)
        count += 1
    clear_unused(model)
    return count
