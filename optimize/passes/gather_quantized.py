"""Turn a dequantised embedding table into ONNX Runtime's operators on packed codes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgellama.optimize.float_rows import Floats
from edgellama.optimize.passes.edit import (
    add_initializer,
    add_lazy,
    clear_unused,
    insert_before,
    replace,
    shared_initializer,
)
from edgellama.optimize.passes.linear_weight import CODES, read_quantized
from edgellama.optimize.passes.match import MICROSOFT, dims, is_weight, operand, producer
from edgellama.optimize.passes.matmul_nbits import replace_by_nbits
from edgellama.optimize.quantized_weight import QuantizedWeight
from edgellama.optimize.recipes import TABLE
from edgellama.optimize.weight_tensors import BlobTensor, whole_scales


def _constant(graph: ir.Graph, name: str, values: list[int]) -> ir.Value:
    return shared_initializer(graph, name, ir.tensor(np.array(values, np.int64), name=name))


def _gather(node: ir.Node, blob: ir.Value, scales: ir.Value, width: int, block: int) -> None:
    """Replace `Gather(table, ids)` by a quantised one; padding beyond `width` is cut off."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    _, blocks, size = dims(blob.shape)
    bits = size * 8 // block
    (rows,) = insert_before(
        node,
        "GatherBlockQuantized",
        [blob, operand(node, 1), scales],
        ["embedding.blocks"],
        domain=MICROSOFT,
        attributes={"gather_axis": 0, "quantize_axis": 2, "block_size": block, "bits": bits},
    )
    flat = _constant(graph, "embedding.flat_shape", [0, 0, blocks * block])
    (hidden,) = insert_before(node, "Reshape", [rows, flat], ["embedding.rows"])
    if blocks * block != width:
        (hidden,) = insert_before(
            node,
            "Slice",
            [
                hidden,
                _constant(graph, "embedding.slice_start", [0]),
                _constant(graph, "embedding.slice_end", [width]),
                _constant(graph, "embedding.slice_axis", [2]),
            ],
            ["embedding.cut"],
        )
    replace(node.outputs[0], hidden)


def _head(node: ir.Node, blob: ir.Value, scales: ir.Value, width: int, block: int) -> None:
    """Replace `MatMul(x, Transpose(table))` by `MatMulNBits` on the same blob."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    vocab, blocks, _ = dims(blob.shape)
    flat = _constant(graph, "head.scales_shape", [vocab, blocks])
    (head_scales,) = insert_before(node, "Reshape", [scales, flat], ["head.scales"])
    replace_by_nbits(node, blob, head_scales, width, block)


def _block_scales(weight: QuantizedWeight) -> Floats:
    return whole_scales(weight)[:, :, None]


def fuse_gather_quantized(model: ir.Model) -> int:
    """Fuse a quantised embedding; returns the readers rewritten: 1, or 2 with a tied head.

    1. `Gather(DequantizeLinear(codes [V, H], axis=1), ids)` -> `GatherBlockQuantized` on blob
       [V, blocks, block * bits / 8].
    2. `MatMul(x, Transpose(DequantizeLinear(...)))` (tied head) -> `MatMulNBits` on the same blob.
    """
    graph = model.graph
    codes = graph.initializers.get(f"{TABLE}{CODES}")
    readers = [use.node for use in codes.uses()] if codes is not None else []
    if codes is None or not is_weight(codes) or len(readers) != 1:
        return 0
    (dequantize,) = readers
    if producer(dequantize.outputs[0], "DequantizeLinear") is None:
        return 0
    weight = read_quantized(dequantize)
    layout = weight.layout
    block, width = layout.block_size, layout.inputs
    blob = add_initializer(graph, f"{TABLE}.blob", BlobTensor(weight, f"{TABLE}.blob"))
    scales = add_lazy(
        graph,
        f"{TABLE}.block_scales",
        ir.DataType.FLOAT,
        [layout.outputs, layout.scales_a_row, 1],
        lambda: _block_scales(weight),
    )
    count = 0
    for use in list(dequantize.outputs[0].uses()):
        node = use.node
        if node.op_type == "Gather":
            _gather(node, blob, scales, width, block)
            count += 1
        elif node.op_type == "Transpose":
            for reader in list(node.outputs[0].uses()):
                if reader.node.op_type == "MatMul":
                    _head(reader.node, blob, scales, width, block)
                    count += 1
    clear_unused(model)
    model.opset_imports.setdefault(MICROSOFT, 1)
    return count
