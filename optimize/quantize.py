"""Symmetric block quantisation of weights by rounding to nearest: numbers only, no graph."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float32]

# A block's scale is its largest magnitude divided by one of these; the one with the smallest
# squared error is kept. Above the largest code, the extreme is clipped and the rest is finer.
_DIVISORS = {4: (7.0, 7.5, 8.0), 8: (127.0,)}
_LARGEST = {4: 7, 8: 127}
_ELEMENTS_AT_ONCE = 1 << 16  # quantised together: the temporaries of a thread stay in its cache
_MOST_THREADS = 8


@dataclass(frozen=True)
class QuantizedRows:
    """Codes int8 `[rows, blocks * block_size]` (zero beyond the row) and scales `[rows, blocks]`.

    The weight is `codes * scale` of the block; the zero point is 0.
    """

    codes: Codes
    scales: Floats
    width: int
    bits: int
    block_size: int

    def dequantize(self) -> Floats:
        """Return float32 `[rows, width]`."""
        rows, blocks = self.scales.shape
        wide = self.codes.reshape(rows, blocks, self.block_size) * self.scales[:, :, None]
        return np.ascontiguousarray(wide.reshape(rows, -1)[:, : self.width], dtype=np.float32)


class _Work:
    """Arrays of one thread that fit its cache: padded rows, a trial and its scales spread out.

    `limit` is the largest code everywhere: numpy is four times as fast with it as with a number.
    """

    def __init__(self, rows: int, width: int, bits: int, block_size: int) -> None:
        blocks = -(-width // block_size)
        self.width = width
        self.shape = (blocks, block_size)
        self.padded = np.zeros((rows, blocks * block_size), np.float32)
        self.trial = np.empty((rows * blocks, block_size), np.float32)
        self.spread = np.empty_like(self.trial)
        self.limit = np.full_like(self.trial, _LARGEST[bits])

    def blocks_of(self, rows: Floats) -> Floats:
        """Return the rows as blocks `[n, block_size]`, the last of each row padded with 0."""
        if self.width % self.shape[1] or not rows.flags.c_contiguous:
            padded = self.padded[: len(rows)]
            padded[:, : self.width] = rows
            rows = padded
        return rows.reshape(-1, self.shape[1])


def _largest(magnitudes: Floats) -> Floats:
    """Return the largest of each row; numpy is slow along short rows, a transposed copy is not."""
    if magnitudes.shape[1] <= 64:
        return np.asarray(np.ascontiguousarray(magnitudes.T).max(axis=0))
    return np.asarray(magnitudes.max(axis=1))


def _scale(largest: Floats, divisor: float) -> Floats:
    scale = largest / np.float32(divisor)
    # A block of zeros keeps scale 1: any scale gives zeros, and runtimes refuse 0. A scale
    # that underflowed would divide by zero likewise.
    scale[scale < np.finfo(np.float32).tiny] = 1.0
    return scale


def _round(part: Floats, scales: Floats, bits: int, work: _Work) -> Floats:
    """Return the codes of blocks `[n, block_size]`, as floats in `work.trial`.

    No quotient exceeds its scale's divisor, so only the largest code of 4 bits needs a limit.
    """
    trial, spread = work.trial[: len(part)], work.spread[: len(part)]
    spread[...] = scales[:, None]
    np.divide(part, spread, out=trial)
    np.rint(trial, out=trial)
    if bits == 4:
        np.minimum(trial, work.limit[: len(part)], out=trial)
    return trial


def _best_scales(part: Floats, bits: int, work: _Work) -> Floats:
    """Return the scale of each block `[n, block_size]`; of equally good ones the first."""
    largest = _largest(np.abs(part, out=work.trial[: len(part)]))
    divisors = _DIVISORS[bits]
    scales = _scale(largest, divisors[0])
    if len(divisors) == 1:
        return scales
    best = _error(part, scales, bits, work)
    for divisor in divisors[1:]:
        scale = _scale(largest, divisor)
        error = _error(part, scale, bits, work)
        better = error < best
        np.copyto(scales, scale, where=better)
        np.copyto(best, error, where=better)
    return scales


def _error(part: Floats, scales: Floats, bits: int, work: _Work) -> Floats:
    """Return the squared error of each block; that of a huge weight is infinite."""
    trial = _round(part, scales, bits, work)
    with np.errstate(over="ignore"):
        np.multiply(trial, work.spread[: len(part)], out=trial)
        np.subtract(trial, part, out=trial)
        np.square(trial, out=trial)
        return np.asarray(trial.sum(axis=1))


def _threads() -> int:
    return min(os.cpu_count() or 1, _MOST_THREADS)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads that every call shares: starting them takes as long as a small slice."""
    return ThreadPoolExecutor(_threads(), thread_name_prefix="quantize")


def quantize_rows(weight: Floats, bits: int, block_size: int) -> QuantizedRows:
    """Quantise float32 `[rows, width]` in blocks along each row; the last is padded with 0.

    The rows are shared out among the cores, a few at a time; the result is the same for any number.
    """
    rows, width = weight.shape
    blocks = -(-width // block_size)
    codes = np.empty((rows, blocks * block_size), np.int8)
    scales = np.empty((rows, blocks), np.float32)
    step = max(1, _ELEMENTS_AT_ONCE // max(1, blocks * block_size))

    def quantize(first: int, last: int) -> None:
        work = _Work(min(step, last - first), width, bits, block_size)
        for start in range(first, last, step):
            stop = min(start + step, last)
            part = work.blocks_of(weight[start:stop])
            best = _best_scales(part, bits, work)
            codes[start:stop] = _round(part, best, bits, work).reshape(stop - start, -1)
            scales[start:stop] = best.reshape(stop - start, -1)

    threads = min(_threads(), -(-rows // step))
    if threads < 2:
        quantize(0, rows)
    else:
        edges = [rows * index // threads for index in range(threads + 1)]
        list(_pool().map(quantize, edges[:-1], edges[1:]))
    return QuantizedRows(codes, scales, width, bits, block_size)


def pack_blob(codes: Codes, bits: int, block_size: int) -> npt.NDArray[np.uint8]:
    """Pack codes `[rows, blocks * block_size]` as ONNX Runtime's `MatMulNBits` wants them.

    Returns uint8 `[rows, blocks, block_size * bits / 8]`: unsigned codes with zero point
    `2^(bits-1)`, for 4 bits the even element in the low nibble.
    """
    unsigned = np.ascontiguousarray(codes).view(np.uint8) + np.uint8(1 << (bits - 1))  # wraps
    blob = unsigned.reshape(len(codes), -1, block_size)
    if bits == 8:
        return blob
    pairs = blob.view("<u2")  # the odd element in the high byte
    return np.asarray((pairs | (pairs >> 4)).astype(np.uint8))
