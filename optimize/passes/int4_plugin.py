"""Give INT4 linears to the project's own kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgellama.export.streamed import StreamedTensor
from edgellama.optimize.kernels.function_body import DOMAIN
from edgellama.optimize.kernels.int4_function import LINEAR
from edgellama.optimize.kernels.int4_layout import pack_codes
from edgellama.optimize.passes.edit import add_initializer, clear_unused, insert_before, replace
from edgellama.optimize.passes.linear_weight import SCALES, linear_weight, read_quantized
from edgellama.optimize.passes.match import operand
from edgellama.optimize.quantized_weight import QuantizedWeight
from edgellama.optimize.weight_tensors import ScalesTensor, walk
from edgellama.profiles.kernels import LINEAR_BLOCK

PACKED = ".packed"


class PackedTensor(StreamedTensor):
    """Codes as the kernel has them: int8 [N, K / 2], two to a byte."""

    def __init__(self, weight: QuantizedWeight, name: str) -> None:
        layout = weight.layout
        shape = (layout.outputs, layout.inputs // 2)
        super().__init__(self._content, ir.DataType.INT8, shape, name)
        self.weight = weight

    def _content(self) -> Iterator[npt.NDArray[Any]]:
        for part in walk(self.weight):
            yield pack_codes(part.codes.astype(np.int8, copy=False))


def fuse_int4_linears(model: ir.Model) -> int:
    """Rewrite dequantised linears; returns how many.

    1. `MatMul(x, DequantizeLinear(codes int4 [K, N], scales [K / 128, N], axis=0, 128))`
       -> `Int4Linear(x, packed int8 [N, K / 2], scales [N, K / 128])`.
    2. Other codes, another block, a zero point, or codes that are computed: declined.
    """
    graph = model.graph
    count = 0
    for node in list(graph):
        found = linear_weight(node)
        reader = found.reader if found is not None else None
        if found is None or reader is None or reader.op_type != "DequantizeLinear":
            continue
        if found.data.dtype != ir.DataType.INT4 or len(reader.inputs) > 2:
            continue
        blocks = reader.attributes.get_int("block_size", 0)
        if blocks != LINEAR_BLOCK or reader.attributes.get_int("axis", 1) != 0:
            continue
        weight = read_quantized(reader)
        dtype = operand(reader, 1).dtype
        if weight.layout.inputs % LINEAR_BLOCK or dtype is None:
            continue
        packed = PackedTensor(weight, f"{found.name}{PACKED}")
        scales = ScalesTensor(weight, f"{found.name}{PACKED}{SCALES}", dtype, transposed=False)
        inputs = [
            operand(node, 0),
            add_initializer(graph, f"{found.name}{PACKED}", packed),
            add_initializer(graph, f"{found.name}{PACKED}{SCALES}", scales),
        ]
        old = node.outputs[0]
        (new,) = insert_before(node, LINEAR, inputs, [f"{old.name}/int4"], domain=DOMAIN)
        new.type = ir.TensorType(dtype)
        replace(old, new)
        count += 1
    clear_unused(model)
    if count:
        model.opset_imports.setdefault(DOMAIN, 1)
    return count
