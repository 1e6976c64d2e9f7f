"""Turn block-dequantised linears into ONNX Runtime's `MatMulNBits`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgellama.optimize.passes.edit import add_lazy, clear_unused, insert_before, replace
from edgellama.optimize.passes.match import MICROSOFT, dims, operand, producer
from edgellama.optimize.quantize import pack_blob

_BITS = {ir.DataType.INT4: 4, ir.DataType.INT8: 8}
# Activations are quantised to int8 a block, so that the kernel runs on integer dot products; the
# alternative computes in float32 and reads no fewer bytes.
ACCURACY_LEVEL = 4


def _blob(codes: ir.TensorProtocol, bits: int, block_size: int) -> npt.NDArray[np.uint8]:
    rows = np.ascontiguousarray(codes.numpy().astype(np.int8).T)
    short = -rows.shape[1] % block_size
    padded = np.pad(rows, ((0, 0), (0, short))) if short else rows
    return pack_blob(padded, bits, block_size)


def _transposed(scales: ir.TensorProtocol) -> npt.NDArray[Any]:
    return np.ascontiguousarray(scales.numpy().T)


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
        if node.op_type != "MatMul":
            continue
        dequantize = producer(operand(node, 1), "DequantizeLinear")
        if dequantize is None or len(dequantize.inputs) > 2:
            continue
        codes, scales = operand(dequantize, 0).const_value, operand(dequantize, 1).const_value
        axis = dequantize.attributes["axis"].as_int()
        if codes is None or scales is None or codes.dtype not in _BITS or axis != 0:
            continue
        bits = _BITS[codes.dtype]
        block_size = dequantize.attributes["block_size"].as_int()
        k, n = dims(codes.shape)
        blocks = -(-k // block_size)
        prefix = (operand(dequantize, 0).name or "").removesuffix(".codes")
        blob = add_lazy(
            graph,
            f"{prefix}.blob",
            ir.DataType.UINT8,
            [n, blocks, block_size * bits // 8],
            partial(_blob, codes, bits, block_size),
        )
        block_scales = add_lazy(
            graph,
            f"{prefix}.block_scales",
            ir.DataType.FLOAT,
            [n, blocks],
            partial(_transposed, scales),
        )
        replace_by_nbits(node, blob, block_scales, k, block_size)
        count += 1
    clear_unused(model)
    if count:
        model.opset_imports.setdefault(MICROSOFT, 1)
    return count
