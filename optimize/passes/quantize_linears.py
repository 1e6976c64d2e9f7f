"""Quantise linears into `MatMul` of `DequantizeLinear`, their inputs too where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir

from edgellama.optimize.passes.edit import clear_unused, insert_before, replace, shared_initializer
from edgellama.optimize.passes.linear_weight import insert_dequantize
from edgellama.optimize.passes.match import is_weight, operand
from edgellama.optimize.recipes import Recipe
from edgellama.optimize.weight_tensors import as_type

ZEROS = {
    ir.DataType.INT8: ("zero.int8", np.int8(0)),
    ir.DataType.UINT8: ("zero.uint8", np.uint8(128)),
    ir.DataType.FLOAT8E4M3FN: ("zero.fp8", ml_dtypes.float8_e4m3fn(0)),
}


def zero_point(graph: ir.Graph, dtype: ir.DataType) -> ir.Value:
    """Return the constant code of 0, which names the type of the codes."""
    name, zero = ZEROS[dtype]
    return shared_initializer(graph, name, ir.tensor(np.array(zero), dtype=dtype, name=name))


def round_value(
    anchor: ir.Node, x: ir.Value, step: np.float32, codes: ir.DataType, name: str
) -> ir.Value:
    """Insert `DequantizeLinear(QuantizeLinear(x, step), step)` before `anchor`; returns x rounded.

    The step is one number; its type is that of `x`, float32 where the graph does not say.
    """
    graph = anchor.graph
    assert isinstance(graph, ir.Graph)
    dtype = x.dtype or ir.DataType.FLOAT
    array = as_type(step, dtype, f"the step of {name}")
    label = f"{name}.step"
    scale = shared_initializer(graph, label, ir.tensor(array, dtype=dtype, name=label))
    zero = zero_point(graph, codes)
    (coded,) = insert_before(anchor, "QuantizeLinear", [x, scale, zero], [f"{name}.codes"])
    (rounded,) = insert_before(
        anchor, "DequantizeLinear", [coded, scale, zero], [f"{name}.rounded"]
    )
    coded.type, coded.shape = ir.TensorType(codes), x.shape
    rounded.type, rounded.shape = ir.TensorType(dtype), x.shape
    return rounded


def quantize_linears(model: ir.Model, recipes: Mapping[str, Recipe]) -> int:
    """Quantise the linears that have a recipe; returns how many.

    1. `MatMul(x, W)`, W a float initializer [K, N]
       -> `MatMul(x, DequantizeLinear(codes [K, N], scales))`: scales [ceil(K / block), N] along
       axis 0 (the last block of a column may be shorter), [N] along axis 1, or [].
    2. The same with an input scale -> `MatMul(DequantizeLinear(QuantizeLinear(x)), ...)`; the
       projections of one x share its codes.
    3. A weight that is computed, or that another node reads too: declined.
    """
    rounded: dict[tuple[ir.Value, float], ir.Value] = {}
    count = 0
    for node in list(model.graph):
        if node.op_type != "MatMul":
            continue
        weight = operand(node, 1)
        tensor = weight.const_value
        recipe = recipes.get(weight.name or "")
        if recipe is None or tensor is None or not is_weight(weight) or len(weight.uses()) != 1:
            continue
        name = weight.name or ""
        x = operand(node, 0)
        if recipe.input_scale is not None:
            key = (x, recipe.input_scale)
            if key not in rounded:
                label = f"{name.removesuffix('.weight')}.input"
                step = np.float32(recipe.input_scale)
                rounded[key] = round_value(node, x, step, recipe.dtype, label)
            x = rounded[key]
        source = recipe.weight(tensor)
        dequantized = insert_dequantize(node, name, source, tensor.dtype, transposed=True)
        old = node.outputs[0]
        (new,) = insert_before(node, "MatMul", [x, dequantized], [f"{old.name}/quantized"])
        replace(old, new)
        count += 1
    clear_unused(model)
    return count
