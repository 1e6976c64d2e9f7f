"""The initializers of a quantised weight: made when they are written, a slice at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgellama.export.streamed import StreamedTensor
from edgellama.optimize.float_rows import Floats
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.quantize import pack_blob
from edgellama.optimize.quantized_weight import Codes, QuantizedWeight, Slice

# The scales of the last weight whose codes were read: a writer wants them next, and quantising is
# the dear part. One entry: the head's are megabytes, its codes hundreds.
_last: list[tuple[QuantizedWeight, Floats]] = []
_STRIP = 16  # rows transposed at a time: as many cache lines as a core keeps apart


def forget_scales() -> None:
    """Drop what was kept of the last weight: once the graph is written, nobody reads it again."""
    _last.clear()


def walk(weight: QuantizedWeight) -> Iterator[Slice]:
    """Yield the slices, and keep the scales when all are done."""
    layout = weight.layout
    scales = np.empty((layout.outputs, layout.scales_a_row), np.float32)
    for part in weight.slices():
        scales[part.start : part.start + len(part.scales)] = part.scales
        yield part
    _last[:] = [(weight, scales)]


def whole_scales(weight: QuantizedWeight) -> Floats:
    """Return all scales float32 [N, scales_a_row]."""
    if not _last or _last[0][0] is not weight:
        for _ in walk(weight):
            pass
    return _last[0][1]


def _nibbles(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack int4 codes [..., even], low nibble first."""
    low = codes[..., 0::2].view(np.uint8) & 0xF
    return np.asarray(low | (codes[..., 1::2].view(np.uint8) << 4))


def _packed_flat(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack int4 codes of an odd width, whose pairs straddle the rows."""
    flat = codes.reshape(-1)
    return _nibbles(np.concatenate([flat, np.zeros(flat.size % 2, np.int8)]))


def _transpose_into(target: npt.NDArray[Any], start: int, rows: npt.NDArray[Any]) -> None:
    """Write `rows` as the columns of `target` from `start` on, by strips that stay in the cache."""
    for first in range(0, len(rows), _STRIP):
        strip = rows[first : first + _STRIP]
        target[:, start + first : start + first + len(strip)] = strip.T


def _transposed_codes(weight: QuantizedWeight) -> npt.NDArray[Any]:
    """Return all codes as [K, N] is stored; int4 packed, so a byte for two from the start."""
    layout = weight.layout
    int4 = layout.dtype == ir.DataType.INT4
    if not int4 or layout.outputs % 2:
        kind = np.dtype(np.int8) if int4 else layout.dtype.numpy()
        whole = np.empty((layout.inputs, layout.outputs), kind)
        for part in walk(weight):
            _transpose_into(whole, part.start, part.codes)
        return _packed_flat(whole) if int4 else whole
    packed = np.empty((layout.inputs, layout.outputs // 2), np.uint8)
    for part in walk(weight):
        assert part.start % 2 == 0 and len(part.codes) % 2 == 0, "a pair of nibbles is split"
        codes = part.codes.astype(np.int8, copy=False).view(np.uint8)
        _transpose_into(packed, part.start // 2, (codes[0::2] & 0xF) | (codes[1::2] << 4))
    return packed


class CodesTensor(StreamedTensor):
    """The codes of a weight: `[K, N]` where `transposed`, as linears have them, else `[N, K]`."""

    def __init__(self, weight: QuantizedWeight, name: str, *, transposed: bool) -> None:
        layout = weight.layout
        shape = (layout.inputs, layout.outputs) if transposed else (layout.outputs, layout.inputs)
        super().__init__(self._content, layout.dtype, shape, name)
        self.weight = weight
        self._transposed = transposed

    def _content(self) -> Iterator[npt.NDArray[Any]]:
        if self._transposed:
            yield _transposed_codes(self.weight)
            return
        layout = self.weight.layout
        if layout.dtype != ir.DataType.INT4:
            for part in walk(self.weight):
                yield part.codes
        elif layout.inputs % 2 == 0:
            for part in walk(self.weight):
                yield _nibbles(np.ascontiguousarray(part.codes))
        else:
            yield _packed_flat(np.concatenate([part.codes for part in walk(self.weight)]))


class ScalesTensor(ir.LazyTensor):
    """The scales of a weight: `[blocks, N]` where `transposed`, `[N, blocks]` where not, `[N]` or
    `[]` where blocks are not."""

    def __init__(
        self, weight: QuantizedWeight, name: str, dtype: ir.DataType, *, transposed: bool
    ) -> None:
        layout = weight.layout
        shape: tuple[int, ...] = () if layout.per_tensor else (layout.outputs,)
        if layout.block_size:
            shape = (layout.outputs, layout.scales_a_row)
            shape = shape[::-1] if transposed else shape
        super().__init__(self._make, dtype=dtype, shape=ir.Shape(shape), name=name)
        self.weight = weight
        self._transposed = transposed

    def _make(self) -> ir.TensorProtocol:
        layout = self.weight.layout
        scales = whole_scales(self.weight)
        if layout.block_size:
            array = np.ascontiguousarray(scales.T if self._transposed else scales)
        else:
            array = scales[0, 0] if layout.per_tensor else scales[:, 0].copy()
        return ir.Tensor(as_type(array, self.dtype, f"a scale of {self.name}"), name=self.name)


class BlobTensor(StreamedTensor):
    """Codes as ONNX Runtime's block kernels want them: uint8 [N, blocks, block_size * bits / 8],
    unsigned, the last block filled up with zeros."""

    def __init__(self, weight: QuantizedWeight, name: str) -> None:
        layout = weight.layout
        self._bits = layout.dtype.bitwidth
        shape = (layout.outputs, layout.scales_a_row, layout.block_size * self._bits // 8)
        super().__init__(self._content, ir.DataType.UINT8, shape, name)
        self.weight = weight

    def _content(self) -> Iterator[npt.NDArray[np.uint8]]:
        layout = self.weight.layout
        short = layout.scales_a_row * layout.block_size - layout.inputs
        for part in walk(self.weight):
            codes: Codes = np.pad(part.codes, ((0, 0), (0, short))) if short else part.codes
            yield pack_blob(codes, self._bits, layout.block_size)


def as_type(array: Floats | np.float32, dtype: ir.DataType, what: str) -> npt.NDArray[Any]:
    """Cast to the graph's float type; raises BuildError for what becomes infinite or zero."""
    wide = np.asarray(array)
    if dtype == ir.DataType.FLOAT:
        return wide
    with np.errstate(over="ignore"):
        narrow = wide.astype(dtype.numpy())
    again = narrow.astype(np.float32)
    if not np.isfinite(again).all() or ((again == 0) & (wide != 0)).any():
        raise BuildError(f"{what} lies outside the range of {dtype}; export with --dtype float32")
    return narrow
