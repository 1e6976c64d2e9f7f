"""Read a float weight in slices of its outputs, so that a large one is never in memory whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgellama.optimize.passes.match import dims

Floats = npt.NDArray[np.float32]
ELEMENTS_AT_ONCE = 1 << 20  # 4 MB of float32: small in memory, large beside the calls for it


@runtime_checkable
class RowReader(Protocol):
    """A tensor that reads slices of its outputs from where it is stored."""

    def rows(self, start: int, stop: int) -> Floats:
        """Return float32 [stop - start, K]."""


def rows_at_once(outputs: int, inputs: int) -> int:
    """Return how many outputs make a slice: an even number, so that nibble pairs stay together."""
    return min(outputs, max(2, ELEMENTS_AT_ONCE // max(1, inputs) // 2 * 2))


def float_slices(tensor: ir.TensorProtocol, *, transposed: bool) -> Iterator[tuple[int, Floats]]:
    """Yield (start, float32 [n, K]) over the outputs of a weight, in order.

    The tensor is `[K, N]` where `transposed`, as linears are stored, else `[N, K]`, as tables are.
    """
    shape = dims(tensor.shape)
    outputs, inputs = shape[::-1] if transposed else shape
    step = rows_at_once(outputs, inputs)
    starts = range(0, outputs, step)
    if isinstance(tensor, RowReader):
        for start in starts:
            yield start, tensor.rows(start, min(start + step, outputs))
        return
    whole = tensor.numpy()  # a view of the mapped file where the tensor is external
    for start in starts:
        stop = start + step
        part = whole[:, start:stop].T if transposed else whole[start:stop]
        yield start, np.ascontiguousarray(part, dtype=np.float32)
