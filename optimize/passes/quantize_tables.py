"""Quantise the embedding table, and the head that shares it, for ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgellama.optimize.passes.edit import (
    add_lazy,
    clear_unused,
    insert_before,
    replace,
    shared_initializer,
)
from edgellama.optimize.passes.match import MICROSOFT, dims, is_weight, operand
from edgellama.optimize.passes.matmul_nbits import replace_by_nbits
from edgellama.optimize.passes.quantize_linears import QuantizedSource
from edgellama.optimize.quantize import pack_blob

TABLE = "model.embed_tokens.weight"


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


def quantize_tables(model: ir.Model, bits: int, block_size: int) -> int:
    """Quantise the embedding; returns the readers rewritten: 1, or 2 with a tied head.

    1. `Gather(table [V, H], ids)` -> `GatherBlockQuantized` on blob [V, blocks, block*bits/8].
    2. `MatMul(x, Transpose(table))` (tied head) -> `MatMulNBits` on the very same blob.
    """
    graph = model.graph
    table = graph.initializers.get(TABLE)
    tensor = table.const_value if table is not None else None
    if table is None or tensor is None or not is_weight(table):
        return 0
    vocab, width = dims(tensor.shape)
    source = QuantizedSource(tensor, bits, block_size, transposed=False)
    blocks = -(-width // block_size)
    blob = add_lazy(
        graph,
        f"{TABLE}.blob",
        ir.DataType.UINT8,
        [vocab, blocks, block_size * bits // 8],
        lambda: pack_blob(source.rows().codes, bits, block_size),
    )
    scales = add_lazy(
        graph,
        f"{TABLE}.block_scales",
        ir.DataType.FLOAT,
        [vocab, blocks, 1],
        lambda: source.rows().scales[:, :, None],
    )
    count = 0
    for use in list(table.uses()):
        node = use.node
        if node.op_type == "Gather":
            _gather(node, blob, scales, width, block_size)
            count += 1
        elif node.op_type == "Transpose":
            for reader in list(node.outputs[0].uses()):
                if reader.node.op_type == "MatMul":
                    _head(reader.node, blob, scales, width, block_size)
                    count += 1
    clear_unused(model)
    model.opset_imports.setdefault(MICROSOFT, 1)
    return count
