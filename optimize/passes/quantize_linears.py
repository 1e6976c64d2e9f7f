"""Quantise the weights of linears into `DequantizeLinear(W[K, N], axis 0) -> MatMul`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgellama.optimize.passes.edit import add_lazy, clear_unused, insert_before, replace
from edgellama.optimize.passes.match import dims, is_weight, operand
from edgellama.optimize.quantize import QuantizedRows, quantize_rows

ELEMENT_TYPES = {
    4: (ir.DataType.INT4, ml_dtypes.int4),
    8: (ir.DataType.INT8, np.int8),
}


@dataclass(frozen=True, eq=False)
class QuantizedSource:
    """One weight that is quantised when first read; `transposed` marks a `[K, N]` weight."""

    tensor: ir.TensorProtocol
    bits: int
    block_size: int
    transposed: bool

    def rows(self) -> QuantizedRows:
        """Return the quantised rows; codes and scales are read one after the other, so the last
        result is kept and nothing else."""
        return _quantized(self)


@functools.lru_cache(maxsize=1)
def _quantized(source: QuantizedSource) -> QuantizedRows:
    weight = np.asarray(source.tensor.numpy(), dtype=np.float32)
    if source.transposed:
        weight = np.ascontiguousarray(weight.T)
    return quantize_rows(weight, source.bits, source.block_size)


def forget_rows() -> None:
    """Drop the last quantised weight: once the graph is written, nobody reads it again."""
    _quantized.cache_clear()


def _codes(source: QuantizedSource) -> npt.NDArray[Any]:
    """Return the codes [K, N] in the array type of their width."""
    rows = source.rows()
    codes = np.ascontiguousarray(rows.codes[:, : rows.width].T)
    return codes.astype(ELEMENT_TYPES[source.bits][1])


def _scales(source: QuantizedSource) -> npt.NDArray[Any]:
    """Return the scales float32 [blocks, N]."""
    return np.ascontiguousarray(source.rows().scales.T)


def quantize_linears(
    model: ir.Model, bits: int, block_size: int, wanted: Callable[[str], bool]
) -> int:
    """Quantise the linears whose weight name is `wanted`; returns how many.

    1. `MatMul(x, W)`, W a float32 initializer [K, N]
       -> `MatMul(x, DequantizeLinear(codes [K, N], scales [ceil(K / block), N], axis=0, block))`,
       symmetric, int4 or int8; the last block of a column may be shorter than the others.
    2. A weight that is computed, that another node reads too, or of another type: declined.
    """
    graph = model.graph
    count = 0
    for node in list(graph):
        if node.op_type != "MatMul":
            continue
        weight = operand(node, 1)
        tensor = weight.const_value
        name = weight.name or ""
        if not is_weight(weight) or tensor is None or not wanted(name):
            continue
        if tensor.dtype != ir.DataType.FLOAT or len(weight.uses()) != 1:
            continue
        k, n = dims(tensor.shape)
        source = QuantizedSource(tensor, bits, block_size, transposed=True)
        kind, _ = ELEMENT_TYPES[bits]
        codes = add_lazy(graph, f"{name}.codes", kind, [k, n], partial(_codes, source))
        scales = add_lazy(
            graph,
            f"{name}.scales",
            ir.DataType.FLOAT,
            [-(-k // block_size), n],
            partial(_scales, source),
        )
        (float_weight,) = insert_before(
            node,
            "DequantizeLinear",
            [codes, scales],
            [f"{name}.dequantized"],
            attributes={"axis": 0, "block_size": block_size},
        )
        old = node.outputs[0]
        (new,) = insert_before(
            node, "MatMul", [operand(node, 0), float_weight], [f"{old.name}/quantized"]
        )
        replace(old, new)
        count += 1
    clear_unused(model)
    return count
