"""Store weights in half precision and compute in float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgellama.optimize.passes.edit import add_lazy, clear_unused, insert_before, replace
from edgellama.optimize.passes.match import dims
from edgellama.optimize.pipeline import BuildError

_FLOAT = ir.DataType.FLOAT.value


def _half(tensor: ir.TensorProtocol, name: str) -> npt.NDArray[np.float16]:
    wide = np.asarray(tensor.numpy())
    with np.errstate(over="ignore"):  # refused by name below
        narrow = wide.astype(np.float16)
    if not np.isfinite(narrow).all():
        raise BuildError(
            f"weight {name} exceeds the float16 range (largest |value| "
            f"{np.abs(wide).max():.4g}, limit 65504); use precision fp32 or int8"
        )
    return narrow


def store_half(model: ir.Model, wanted: Callable[[str], bool]) -> int:
    """Store the wanted two-dimensional float32 weights as float16; returns how many.

    1. `Gather(W, ids)` -> `Cast(Gather(W16, ids))`: only the gathered rows are widened.
    2. Any other reader of W -> the same reader of `Cast(W16)`. On a CPU, whose float16 matrix
       kernels convert anyway, the runtime widens these once, when it loads the engine.
    """
    graph = model.graph
    count = 0
    for name, weight in list(graph.initializers.items()):
        tensor = weight.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
            continue
        if not wanted(name):
            continue
        narrow = add_lazy(
            graph,
            f"{name}.half",
            ir.DataType.FLOAT16,
            dims(tensor.shape),
            partial(_half, tensor, name),
        )
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
                    node, "Cast", [rows], [f"{name}.wide_rows"], attributes={"to": _FLOAT}
                )
                replace(node.outputs[0], wide)
            else:
                (wide,) = insert_before(
                    node, "Cast", [narrow], [f"{name}.wide"], attributes={"to": _FLOAT}
                )
                node.replace_input_with(use.idx, wide)
        count += 1
    clear_unused(model)
    return count
