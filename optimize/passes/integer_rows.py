"""Turn linears of int8 weights into integer products of inputs that are rounded row by row."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgellama.optimize.passes.edit import clear_unused, insert_before, replace, shared_initializer
from edgellama.optimize.passes.linear_weight import linear_weight
from edgellama.optimize.passes.match import MICROSOFT, operand, producer
from edgellama.optimize.passes.quantize_linears import zero_point

LARGEST = 127.0  # of the codes of an input, around 128
_PREFIX = "rows."


class _Rounding:
    """Rounds each input once, whoever reads it."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._done: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self._zeros: ir.Value | None = None

    def constant(self, name: str, value: np.generic | np.ndarray) -> ir.Value:
        label = f"{_PREFIX}{name}"
        tensor = ir.tensor(np.asarray(value), name=label)
        return shared_initializer(self._graph, label, tensor)

    def __call__(self, anchor: ir.Node, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the codes uint8 [1, n, K] of x and their steps float32 [1, n, 1]."""
        if x in self._done:
            return self._done[x]
        name = f"{_PREFIX}{x.name}"
        (magnitudes,) = insert_before(anchor, "Abs", [x], [f"{name}/abs"])
        last = self.constant("last_axis", np.array([-1], np.int64))
        (most,) = insert_before(
            anchor, "ReduceMax", [magnitudes, last], [f"{name}/max"], attributes={"keepdims": 1}
        )
        inverse = self.constant("inverse", np.float32(1 / LARGEST))
        (step,) = insert_before(anchor, "Mul", [most, inverse], [f"{name}/raw_step"])
        # A row of zeros has codes of zero whatever its step, but no step may be 0.
        tiny = self.constant("tiny", np.float32(np.finfo(np.float32).tiny))
        (steps,) = insert_before(anchor, "Max", [step, tiny], [f"{name}/step"])
        flat_shape = self.constant("flat", np.array([-1], np.int64))
        (flat,) = insert_before(anchor, "Reshape", [steps, flat_shape], [f"{name}/steps"])
        if self._zeros is None:
            (count,) = insert_before(anchor, "Shape", [flat], [f"{_PREFIX}count"])
            zero = zero_point(self._graph, ir.DataType.UINT8)
            (self._zeros,) = insert_before(anchor, "Expand", [zero, count], [f"{_PREFIX}zeros"])
        (codes,) = insert_before(
            anchor,
            "QuantizeLinear",
            [x, flat, self._zeros],
            [f"{name}/codes"],
            attributes={"axis": 1},
        )
        codes.type, codes.shape = ir.TensorType(ir.DataType.UINT8), x.shape
        self._done[x] = codes, steps
        return codes, steps


def fuse_integer_rows(model: ir.Model) -> int:
    """Fuse linears of int8 weights with a scale an output; returns how many.

    1. `MatMul(x [1, n, K], DequantizeLinear(W int8 [K, N], scales [N], axis=1))`
       -> `MatMulIntegerToFloat(codes, W, 1, scales) * steps`, where `steps [1, n, 1]` are the
       largest magnitude of each row of x / 127, and codes = x / steps around 128: the kernels
       multiply unsigned by signed bytes, and signed by signed 50 times slower.
    2. Weights in blocks, or an input that is rounded already: declined.
    """
    rounding = _Rounding(model.graph)
    count = 0
    for node in list(model.graph):
        found = linear_weight(node)
        if found is None or found.reader is None or found.data.dtype != ir.DataType.INT8:
            continue
        reader = found.reader
        if "block_size" in reader.attributes or reader.attributes.get_int("axis", 1) != 1:
            continue
        x = operand(node, 0)
        if len(reader.inputs) > 2 or producer(x, "DequantizeLinear") is not None:
            continue
        codes, steps = rounding(node, x)
        old = node.outputs[0]
        zero = zero_point(model.graph, ir.DataType.UINT8)
        one = rounding.constant("one", np.float32(1))
        (product,) = insert_before(
            node,
            "MatMulIntegerToFloat",
            [codes, found.data, one, operand(reader, 1), zero],
            [f"{old.name}/integer"],
            domain=MICROSOFT,
        )
        (new,) = insert_before(node, "Mul", [product, steps], [f"{old.name}/scaled"])
        replace(old, new)
        count += 1
    clear_unused(model)
    if count:
        model.opset_imports.setdefault(MICROSOFT, 1)
    return count
