"""Store weights in half precision and compute in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgellama.export.streamed import StreamedTensor
from edgellama.optimize.passes.edit import add_initializer, clear_unused, insert_before, replace
from edgellama.optimize.passes.linear_weight import HALF
from edgellama.optimize.passes.match import dims
from edgellama.optimize.pipeline import BuildError

_ELEMENTS_AT_ONCE = 1 << 22


def _flat_parts(tensor: ir.TensorProtocol) -> Iterator[npt.NDArray[np.float32]]:
    """Yield a float32 tensor's elements in order."""
    if isinstance(tensor, StreamedTensor):
        for chunk in tensor.chunks():
            yield chunk.view(np.float32)
        return
    flat = np.asarray(tensor.numpy()).reshape(-1)
    for start in range(0, flat.size, _ELEMENTS_AT_ONCE):
        yield flat[start : start + _ELEMENTS_AT_ONCE]


class HalfTensor(StreamedTensor):
    """A float32 tensor that is narrowed to 16 bits while it is written."""

    def __init__(self, tensor: ir.TensorProtocol, dtype: ir.DataType, name: str) -> None:
        super().__init__(self._content, dtype, dims(tensor.shape), f"{name}{HALF}")
        self._wide = tensor
        self._weight = name

    def _content(self) -> Iterator[npt.NDArray[Any]]:
        kind = self.dtype.numpy()
        for wide in _flat_parts(self._wide):
            with np.errstate(over="ignore"):  # refused by name below
                narrow = wide.astype(kind)
            if not np.isfinite(narrow.astype(np.float32)).all():
                limit = "65504" if kind == np.float16 else "3.39e38"
                raise BuildError(
                    f"weight {self._weight} exceeds the {kind} range (largest |value| "
                    f"{np.abs(wide).max():.4g}, limit {limit}); use precision fp32 or int8"
                )
            yield narrow


def store_half(model: ir.Model, wanted: Callable[[str], bool], dtype: ir.DataType) -> int:
    """Store the wanted two-dimensional float32 weights as float16 or bfloat16; returns how many.

    1. `Gather(W, ids)` -> `Cast(Gather(W16, ids))`: only the gathered rows are widened.
    2. Any other reader of W -> the same reader of `Cast(W16)`. On a CPU, whose float16 matrix
       kernels convert anyway, the runtime widens these once, when it loads the engine.
    """
    graph = model.graph
    to_float = {"to": ir.DataType.FLOAT.value}
    count = 0
    for name, weight in list(graph.initializers.items()):
        tensor = weight.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
            continue
        if not wanted(name):
            continue
        narrow = add_initializer(graph, f"{name}{HALF}", HalfTensor(tensor, dtype, name))
        for use in list(weight.uses()):
            node = use.node
            if node.op_type == "Gather" and use.idx == 0:
                (rows,) = insert_before(
                    node,
                    "Gather",
                    [narrow, node.inputs[1]],
                    [f"{name}.rows"],
                    attributes={"axis": 0},
                )
                (wide,) = insert_before(
                    node,
                    "Cast",
                    [rows],
                    [f"{name}.wide_rows"],
                    attributes=to_float,
                )
                replace(node.outputs[0], wide)
            else:
                (wide,) = insert_before(
                    node,
                    "Cast",
                    [narrow],
                    [f"{name}.wide"],
                    attributes=to_float,
                )
                wide.type, wide.shape = weight.type, weight.shape
                node.replace_input_with(use.idx, wide)
        count += 1
    clear_unused(model)
    return count
