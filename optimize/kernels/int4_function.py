"""The INT4 linear in standard operators: the body that a runtime without the kernel runs."""

from __future__ import annotations

import onnx_ir as ir

from edgellama.optimize.kernels.function_body import Body
from edgellama.profiles.kernels import LINEAR_BLOCK

LINEAR = "Int4Linear"


def int4_linear_function() -> ir.Function:
    """Return `Int4Linear`, in float32 between its input and its output.

    Nibbles are taken apart by division: ONNX has no shift of signed numbers.
    """
    body = Body()
    x, codes, scales = ir.val("x"), ir.val("codes"), ir.val("scales")
    signed = body.cast(codes, ir.DataType.INT32)
    sixteen, zero = (_int32(body, value) for value in (16, 0))
    negative = body("Less", signed, zero)
    byte = body("Where", negative, body("Add", signed, _int32(body, 256)), signed)
    groups = body.reshape(byte, 0, -1, LINEAR_BLOCK // 2)
    low, high = body("Mod", groups, sixteen), body("Div", groups, sixteen)
    whole = body("Concat", low, high, axis=2)
    steps = body.cast(body("Sub", whole, _int32(body, 8)), ir.DataType.FLOAT)
    wide = body.wide(body.cast(scales, ir.DataType.FLOAT), 2)
    weight = body.reshape(body("Mul", steps, wide), 0, -1)
    turned = body("Transpose", weight, perm=[1, 0])
    product = body("MatMul", body.cast(x, ir.DataType.FLOAT), turned)
    return body.function(LINEAR, [x, codes, scales], [body("CastLike", product, x)], [])


def _int32(body: Body, value: int) -> ir.Value:
    return body.cast(body.integer(value), ir.DataType.INT32)
