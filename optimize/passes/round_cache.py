"""Round new keys and values as a narrower cache keeps them, in standard operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgellama.optimize.float_rows import Floats
from edgellama.optimize.passes.edit import add_initializer, insert_before
from edgellama.optimize.passes.match import constant, dim, operand, producer
from edgellama.optimize.passes.quantize_linears import round_value
from edgellama.optimize.quantized_weight import scale_of
from edgellama.optimize.weight_tensors import as_type

CACHE_TYPES = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN}
CACHED = ((1, "key"), (2, "value"))  # inputs of Attention


def round_cache(
    model: ir.Model, cache: Mapping[str, Floats], codes: ir.DataType, dtype: ir.DataType
) -> int:
    """Round keys and values before they join the past; returns how many attentions.

    `cache` has the largest magnitude float32 [1] or [kv_heads * head_dim] under `N.key` and
    `N.value` of every layer N; keys are rotated. The interface stays float: `present` carries the
    rounded values.

    1. `Attention(q, k, v, ...)` -> `k` and `v` through `QuantizeLinear` and `DequantizeLinear`
       with one step; with a step a channel, divided by the steps before, multiplied by them after,
       because a tensor's heads and features are two axes and a scale has one.
    2. Keys and values that are rounded already: declined.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type != "Attention" or rounded_cache(operand(node, 1)) is not None:
            continue
        past = operand(node, 4)
        layer = (past.name or "").split(".")[1]
        heads, features = dim(past, 1), dim(past, 3)
        for index, kind in CACHED:
            name = f"cache.{layer}.{kind}"
            amax = cache[f"{layer}.{kind}"]
            if amax.shape not in ((1,), (heads * features,)):
                raise ValueError(
                    f"{name}: {amax.shape} magnitudes for {heads} heads of {features} features"
                )
            steps = scale_of(amax, codes)
            value = operand(node, index)
            value.type = value.type or ir.TensorType(dtype)
            if steps.size == 1:
                rounded = round_value(node, value, steps[0], codes, name)
            else:
                label = f"{name}.steps"
                array = as_type(steps.reshape(1, heads, 1, features), dtype, label)
                scale = add_initializer(model.graph, label, ir.tensor(array, name=label))
                (unit,) = insert_before(node, "Div", [value, scale], [f"{name}.unit"])
                unit.type, unit.shape = ir.TensorType(dtype), value.shape
                whole = round_value(node, unit, np.float32(1), codes, name)
                (rounded,) = insert_before(node, "Mul", [whole, scale], [f"{name}.restored"])
                rounded.type, rounded.shape = ir.TensorType(dtype), value.shape
            node.replace_input_with(index, rounded)
        count += 1
    return count


@dataclass(frozen=True, eq=False)
class RoundedCache:
    """Keys or values before rounding, their steps float32 [1] or [kv_heads * head_dim], the type of
    their codes."""

    value: ir.Value
    steps: Floats
    codes: ir.DataType


def rounded_cache(value: ir.Value) -> RoundedCache | None:
    """Recognise what `round_cache` inserted behind a value; None for anything else."""
    steps: Floats | None = None
    multiply = producer(value, "Mul")
    rounded = value
    if multiply is not None:
        array = constant(operand(multiply, 1), limit=1 << 16)
        if array is None:
            return None
        steps = array.reshape(-1).astype(np.float32)
        rounded = operand(multiply, 0)
    dequantize = producer(rounded, "DequantizeLinear")
    if dequantize is None:
        return None
    quantize = producer(operand(dequantize, 0), "QuantizeLinear")
    if quantize is None:
        return None
    step, codes = constant(operand(quantize, 1)), operand(quantize, 0)
    kind = operand(quantize, 2).dtype
    if step is None or kind is None:
        return None
    if steps is None:
        return RoundedCache(codes, step.reshape(-1).astype(np.float32), kind)
    divide = producer(codes, "Div")
    return RoundedCache(operand(divide, 0), steps, kind) if divide is not None else None
