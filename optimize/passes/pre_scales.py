"""Put the pre-scales of linears' inputs where they cost nothing, and multiply where they cannot."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgellama.optimize.float_rows import Floats
from edgellama.optimize.passes.edit import add_initializer, add_lazy, clear_unused, insert_before
from edgellama.optimize.passes.linear_weight import linear_weight, read_quantized
from edgellama.optimize.passes.match import dims, is_weight, operand, single_user
from edgellama.optimize.quantized_weight import ScaledWeight
from edgellama.optimize.weight_tensors import CodesTensor, ScalesTensor, as_type


def _scaled(tensor: ir.TensorProtocol, factors: Floats, name: str) -> npt.NDArray[Any]:
    product = np.asarray(tensor.numpy()).astype(np.float32) * factors
    return as_type(product, tensor.dtype, f"the weight of {name} with its pre-scale")


def fold_into_norms(model: ir.Model, norms: Mapping[str, Floats]) -> int:
    """Multiply norms' weights by the pre-scale of the linears behind; returns how many.

    1. `x = Mul(weight, normalised)` or `RMSNormalization(_, weight)`, x read by linears only
       -> the same with `weight * pre_scale`.
    2. Another reader of x, or another reader of the weight: declined.
    """
    graph = model.graph
    count = 0
    for name, factors in norms.items():
        weight = graph.initializers.get(name)
        tensor = weight.const_value if weight is not None else None
        if weight is None or tensor is None or len(weight.uses()) != 1:
            continue
        ((node, index),) = ((use.node, use.idx) for use in weight.uses())
        if node.op_type not in ("Mul", "RMSNormalization"):
            continue
        readers = [use.node for use in node.outputs[0].uses()]
        if not readers or any(linear_weight(reader) is None for reader in readers):
            continue
        make = partial(_scaled, tensor, factors, name)
        new = add_lazy(graph, f"{name}.scaled", tensor.dtype, dims(tensor.shape), make)
        node.replace_input_with(index, new)
        count += 1
    clear_unused(model)
    return count


def scale_inputs(model: ir.Model, inputs: Mapping[str, Floats], dtype: ir.DataType) -> int:
    """Multiply the inputs of linears by their pre-scales; returns how many.

    1. `MatMul(x, W)`, W an initializer of a name in `inputs` -> `MatMul(Mul(x, pre_scale), W)`.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type != "MatMul" or not is_weight(operand(node, 1)):
            continue
        name = operand(node, 1).name or ""
        if name not in inputs:
            continue
        label = f"{name}.pre_scale"
        array = as_type(inputs[name], dtype, f"a pre-scale of {name}")
        factors = add_initializer(model.graph, label, ir.tensor(array, dtype=dtype, name=label))
        x = operand(node, 0)
        (scaled,) = insert_before(node, "Mul", [x, factors], [f"{name}.scaled_input"])
        scaled.type, scaled.shape = x.type, x.shape
        node.replace_input_with(0, scaled)
        count += 1
    return count


# Operators that pass a factor of each feature on to the next linear, by the input it may enter.
_TRANSPARENT = {
    "Mul": (0, 1),
    "Reshape": (0,),
    "Transpose": (0,),
    "Attention": (2,),
    "QuantizeLinear": (0,),
    "DequantizeLinear": (0,),
}


def _next_linear(product: ir.Value) -> str | None:
    """Return the name of the one linear that a linear's result reaches unmixed, else None."""
    value = product
    while (node := single_user(value)) is not None:
        (index,) = (use.idx for use in value.uses())
        found = linear_weight(node)
        if found is not None:
            return found.name
        if index not in _TRANSPARENT.get(node.op_type, ()):
            return None
        value = node.outputs[0]
    return None


def fold_into_outputs(model: ir.Model, outputs: Mapping[str, Floats]) -> int:
    """Multiply the scales of linears' outputs by the next linear's pre-scale; returns how many.

    1. `up = MatMul(x, DequantizeLinear(codes, scales))`, `MatMul(Mul(_, up), W_down)`
       -> the same codes with `scales * pre_scale` of down; likewise v to o through attention.
    2. A result that anything else reads, or a linear that is not quantised: declined.
    """
    count = 0
    for node in model.graph:
        found = linear_weight(node)
        if found is None or found.name not in outputs or found.reader is None:
            continue
        if found.reader.op_type != "DequantizeLinear":
            continue
        target = _next_linear(node.outputs[0])
        layer = found.name.split(".")[2]
        wanted = "mlp.down_proj" if "up_proj" in found.name else "self_attn.o_proj"
        if target != f"model.layers.{layer}.{wanted}.weight":
            continue
        weight = ScaledWeight(read_quantized(found.reader), outputs[found.name])
        codes, scales = operand(found.reader, 0), operand(found.reader, 1)
        assert isinstance(scales.const_value, ir.TensorProtocol) and scales.dtype is not None
        codes.const_value = CodesTensor(weight, codes.name or "", transposed=True)
        scales.const_value = ScalesTensor(weight, scales.name or "", scales.dtype, transposed=True)
        count += 1
    return count
