"""A quantised weight of a graph that was read from a file, sliced where it is mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgellama.optimize.float_rows import rows_at_once
from edgellama.optimize.quantized_weight import Codes, Layout, Slice
from edgellama.profiles.plan import padded


@dataclass(frozen=True, eq=False)
class ReadWeight:
    """Codes and scales of a graph that was read from a file: [K, N] where `transposed`."""

    codes: ir.TensorProtocol
    scales: ir.TensorProtocol
    layout: Layout
    transposed: bool

    def slices(self) -> Iterator[Slice]:
        """Slice the mapped file."""
        layout = self.layout
        scales = np.asarray(self.scales.numpy()).astype(np.float32)
        if layout.block_size and self.transposed:
            scales = scales.T
        scales = np.broadcast_to(
            scales.reshape(1, 1) if scales.size == 1 else scales.reshape(layout.outputs, -1),
            (layout.outputs, layout.scales_a_row),
        )
        step = rows_at_once(layout.outputs, padded(layout.inputs, 2))
        read = _code_reader(self.codes, layout, self.transposed)
        for start in range(0, layout.outputs, step):
            stop = min(start + step, layout.outputs)
            yield Slice(start, read(start, stop), scales[start:stop])


def _code_reader(
    tensor: ir.TensorProtocol, layout: Layout, transposed: bool
) -> Callable[[int, int], Codes]:
    """Return a function of (start, stop) that gives codes [stop - start, K].

    The packed bytes of int4 are sliced before they are widened, where pairs lie within a row.
    """
    columns = layout.outputs if transposed else layout.inputs
    if layout.dtype == ir.DataType.INT4 and columns % 2 == 0:
        packed = _raw_bytes(tensor).reshape(-1, columns // 2)

        def unpack(start: int, stop: int) -> Codes:
            if not transposed:
                return widen(packed[start:stop])
            first = start // 2 * 2
            wide = widen(packed[:, first // 2 : -(-stop // 2)])
            return np.ascontiguousarray(wide[:, start - first : stop - first].T)

        return unpack
    whole = np.asarray(tensor.numpy())
    if layout.dtype == ir.DataType.INT4:
        whole = whole.astype(np.int8)

    def cut(start: int, stop: int) -> Codes:
        return np.ascontiguousarray(whole[:, start:stop].T if transposed else whole[start:stop])

    return cut


def _raw_bytes(tensor: ir.TensorProtocol) -> npt.NDArray[np.uint8]:
    """Return the bytes as stored, mapped where they lie in a file."""
    if isinstance(tensor, ir.ExternalTensor):
        return np.memmap(tensor.path, np.uint8, "r", tensor.offset or 0, (tensor.nbytes,))
    return np.frombuffer(tensor.tobytes(), np.uint8)


def widen(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Return the int4 codes of packed bytes [rows, n], low nibble first, as int8 [rows, 2 n]."""
    wide = np.empty((packed.shape[0], packed.shape[1] * 2), np.int8)
    signed = packed.view(np.int8)
    wide[:, 0::2] = (signed << 4) >> 4
    wide[:, 1::2] = signed >> 4
    return wide
