"""Quantise the embedding table into `DequantizeLinear`; a head that shares it reads it as well."""

from __future__ import annotations

import onnx_ir as ir

from edgellama.optimize.passes.edit import clear_unused
from edgellama.optimize.passes.linear_weight import insert_dequantize
from edgellama.optimize.passes.match import dims
from edgellama.optimize.quantized_weight import Layout, RoundedWeight
from edgellama.optimize.recipes import TABLE


def quantize_tables(model: ir.Model, dtype: ir.DataType, block_size: int) -> int:
    """Quantise the embedding; returns 1, or 0 where it is quantised already.

    `Gather(table [V, H], ids)` and, with a tied head, `Transpose(table)`
    -> the same readers of `DequantizeLinear(codes [V, H], scales [V, ceil(H / block)], axis=1)`.
    """
    graph = model.graph
    table = graph.initializers.get(TABLE)
    tensor = table.const_value if table is not None else None
    if table is None or tensor is None:
        return 0
    vocab, width = dims(tensor.shape)
    source = RoundedWeight(tensor, Layout(vocab, width, dtype, block_size), transposed=False)
    readers = {use.node for use in table.uses()}
    first = next(node for node in graph if node in readers)
    value = insert_dequantize(first, TABLE, source, tensor.dtype, transposed=False)
    table.replace_all_uses_with(value)
    clear_unused(model)
    return 1
