"""Turn linears of int8 weights and int8 inputs into ONNX Runtime's integer product."""

from __future__ import annotations

import onnx_ir as ir

from edgellama.optimize.passes.edit import clear_unused, insert_before, replace
from edgellama.optimize.passes.linear_weight import linear_weight
from edgellama.optimize.passes.match import MICROSOFT, operand, producer
from edgellama.optimize.passes.quantize_linears import zero_point


def fuse_integer_linears(model: ir.Model) -> int:
    """Fuse int8 linears; returns how many.

    1. `MatMul(DequantizeLinear(xq, s), DequantizeLinear(W [K, N], scales [N], axis=1))`
       -> `MatMulIntegerToFloat(xq, W, s, scales)` of the same codes, those of x as uint8 around
       128: the kernels multiply unsigned by signed bytes, and signed by signed 50 times slower.
    2. Weights in blocks, or an input that is not int8: declined.
    """
    graph = model.graph
    count = 0
    for node in list(graph):
        found = linear_weight(node)
        if found is None or found.reader is None or found.data.dtype != ir.DataType.INT8:
            continue
        dequantize = producer(operand(node, 0), "DequantizeLinear")
        if dequantize is None or "block_size" in found.reader.attributes:
            continue
        coded = operand(dequantize, 0)
        quantize = producer(coded, "QuantizeLinear")
        if quantize is None:
            continue
        zero = zero_point(graph, ir.DataType.UINT8)
        quantize.replace_input_with(2, zero)
        dequantize.replace_input_with(2, zero)  # still right for its other readers
        coded.type = ir.TensorType(ir.DataType.UINT8)
        old = node.outputs[0]
        (new,) = insert_before(
            node,
            "MatMulIntegerToFloat",
            [coded, found.data, operand(dequantize, 1), operand(found.reader, 1), zero],
            [f"{old.name}/integer"],
            domain=MICROSOFT,
        )
        replace(old, new)
        count += 1
    clear_unused(model)
    if count:
        model.opset_imports.setdefault(MICROSOFT, 1)
    return count
