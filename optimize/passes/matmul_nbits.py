"""Turn block-dequantised linears into ONNX Runtime's `MatMulNBits`."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from edgellama.optimize.passes.edit import (
    add_initializer,
    add_lazy,
    clear_unused,
    insert_before,
    replace,
)
from edgellama.optimize.passes.linear_weight import linear_weight, read_quantized
from edgellama.optimize.passes.match import MICROSOFT, dims, operand
from edgellama.optimize.weight_tensors import BlobTensor, whole_scales

_TYPES = (ir.DataType.INT4, ir.DataType.INT8)
# Activations are quantised to int8 a block, so that the kernel runs on integer dot products; the
# alternative computes in float32 and reads no fewer bytes.
ACCURACY_LEVEL = 4


def replace_by_nbits(
    node: ir.Node, blob: ir.Value, scales: ir.Value, k: int, block_size: int
) -> None:
    """Replace a `MatMul` of K inputs by `MatMulNBits` on blob [N, blocks, bytes a block]."""
    n, _, size = dims(blob.shape)
    old = node.outputs[0]
    (new,) = insert_before(
        node,
        "MatMulNBits",
        [operand(node, 0), blob, scales],
        [f"{old.name}/nbits"],
        domain=MICROSOFT,
        attributes={
            "K": k,
            "N": n,
            "bits": size * 8 // block_size,
            "block_size": block_size,
            "accuracy_level": ACCURACY_LEVEL,
        },
    )
    replace(old, new)


def fuse_matmul_nbits(model: ir.Model) -> int:
    """Fuse dequantised linears; returns how many.

    1. `MatMul(x, DequantizeLinear(codes int4|int8 [K, N], scales [ceil(K / b), N], axis=0, b))`
       -> `MatMulNBits(x, blob [N, ceil(K / b), b * bits / 8], scales [N, ceil(K / b)])`; a K that
       is no multiple of the block is padded with zeros in the last block.
    2. A zero point, another axis, or codes that are computed: declined.
    """
    graph = model.graph
    count = 0
    for node in list(graph):
        found = linear_weight(node)
        reader = found.reader if found is not None else None
        if found is None or reader is None or reader.op_type != "DequantizeLinear":
            continue
        if found.data.dtype not in _TYPES or len(reader.inputs) > 2:
            continue
        block_size = reader.attributes.get_int("block_size", 0)
        if not block_size or reader.attributes.get_int("axis", 1) != 0:
            continue
        weight = read_quantized(reader)
        layout = weight.layout
        blob = add_initializer(
            graph, f"{found.name}.blob", BlobTensor(weight, f"{found.name}.blob")
        )
        block_scales = add_lazy(
            graph,
            f"{found.name}.block_scales",
            ir.DataType.FLOAT,
            [layout.outputs, layout.scales_a_row],
            partial(whole_scales, weight),
        )
        replace_by_nbits(node, blob, block_scales, layout.inputs, block_size)
        count += 1
    clear_unused(model)
    if count:
        model.opset_imports.setdefault(MICROSOFT, 1)
    return count
