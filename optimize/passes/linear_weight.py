"""The weight behind a `MatMul`: a float, a narrower float that is cast, or codes with scales."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgellama.optimize.passes.edit import add_initializer, insert_before
from edgellama.optimize.passes.match import dims, is_weight, operand, producer
from edgellama.optimize.quantized_weight import Layout, QuantizedWeight
from edgellama.optimize.read_weight import ReadWeight
from edgellama.optimize.weight_tensors import CodesTensor, ScalesTensor

CODES, SCALES, HALF = ".codes", ".scales", ".half"


@dataclass(frozen=True)
class LinearWeight:
    """`data` holds the weight, its 16-bit form or its codes; `reader` is the `Cast` or the
    `DequantizeLinear` in between, if any. `name` is the checkpoint's."""

    name: str
    data: ir.Value
    reader: ir.Node | None


def weight_behind(value: ir.Value) -> LinearWeight | None:
    """Return the weight that `value` is or comes from; None for anything computed otherwise."""
    if is_weight(value):
        return LinearWeight(value.name or "", value, None)
    for op_type, ending in (("Cast", HALF), ("DequantizeLinear", CODES)):
        reader = producer(value, op_type)
        if reader is not None and is_weight(data := operand(reader, 0)):
            return LinearWeight((data.name or "").removesuffix(ending), data, reader)
    return None


def linear_weight(node: ir.Node) -> LinearWeight | None:
    """Return the weight of a `MatMul` by a constant matrix, else None."""
    return weight_behind(operand(node, 1)) if node.op_type == "MatMul" else None


def read_quantized(reader: ir.Node) -> QuantizedWeight:
    """Return the weight of a `DequantizeLinear`: the one it was made of, or the file's content."""
    codes, scales = operand(reader, 0).const_value, operand(reader, 1).const_value
    if codes is None or scales is None or len(reader.inputs) > 2:
        raise ValueError(
            f"{operand(reader, 0).name}: codes without constant scales, or zero points"
        )
    if isinstance(codes, CodesTensor):
        return codes.weight
    axis = reader.attributes.get_int("axis", 1)
    block_size = reader.attributes.get_int("block_size", 0)
    # Linears are [K, N], tables [N, K]: blocks run along K, a scale for each output along N.
    transposed = axis == 0 if block_size else True
    shape = dims(codes.shape)
    outputs, inputs = shape[::-1] if transposed else shape
    layout = Layout(outputs, inputs, codes.dtype, block_size, per_tensor=len(scales.shape) == 0)
    return ReadWeight(codes, scales, layout, transposed)


def insert_dequantize(
    anchor: ir.Node, name: str, weight: QuantizedWeight, dtype: ir.DataType, *, transposed: bool
) -> ir.Value:
    """Insert `DequantizeLinear(name.codes, name.scales)` before `anchor`; returns the float weight.

    The matrix is `[K, N]` where `transposed`, as linears have it, else `[N, K]`.
    """
    graph = anchor.graph
    assert isinstance(graph, ir.Graph)
    layout = weight.layout
    codes = CodesTensor(weight, f"{name}{CODES}", transposed=transposed)
    scales = ScalesTensor(weight, f"{name}{SCALES}", dtype, transposed=transposed)
    inputs = [
        add_initializer(graph, f"{name}{CODES}", codes),
        add_initializer(graph, f"{name}{SCALES}", scales),
    ]
    attributes: dict[str, int] = {}
    if layout.block_size:
        attributes = {"axis": 0 if transposed else 1, "block_size": layout.block_size}
    elif not layout.per_tensor:
        attributes = {"axis": 1 if transposed else 0}
    (value,) = insert_before(
        anchor, "DequantizeLinear", inputs, [f"{name}.dequantized"], attributes=attributes
    )
    value.type = ir.TensorType(dtype)
    value.shape = ir.Shape(dims(codes.shape))
    return value
