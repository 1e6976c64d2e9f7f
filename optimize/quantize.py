"""Symmetric block quantisation of weights by rounding to nearest: numbers only, no graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float32]

# A block's scale is its largest magnitude divided by one of these; the one with the smallest
# squared error is kept. Above the largest code, the extreme is clipped and the rest is finer.
_DIVISORS = {4: (7.0, 7.5, 8.0), 8: (127.0,)}
_RANGE = {4: (-8, 7), 8: (-128, 127)}
_ROWS_AT_ONCE = 1 << 22  # elements quantised together: bounds the float32 temporaries


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


def _quantize_part(part: Floats, bits: int) -> tuple[Codes, Floats]:
    """Quantise blocks `[n, block_size]`; returns codes of the same shape and scales `[n]`."""
    low, high = _RANGE[bits]
    largest = np.abs(part).max(axis=1)
    best_error = np.full(len(part), np.inf, np.float32)
    codes = np.zeros(part.shape, np.int8)
    scales = np.zeros(len(part), np.float32)
    for divisor in _DIVISORS[bits]:
        scale = (largest / divisor).astype(np.float32)
        # A block of zeros keeps scale 1: any scale gives zeros, and runtimes refuse 0. A scale
        # that underflowed would divide by zero likewise.
        scale[scale < np.finfo(np.float32).tiny] = 1.0
        trial = np.clip(np.rint(part / scale[:, None]), low, high)
        with np.errstate(over="ignore"):
            error = np.square(trial * scale[:, None] - part).sum(axis=1)
        # The first counts whatever its error: the square of a huge weight is infinite.
        better = (error < best_error) | (scales == 0)
        codes[better] = trial[better].astype(np.int8)
        scales[better] = scale[better]
        best_error[better] = error[better]
    return codes, scales


def quantize_rows(weight: Floats, bits: int, block_size: int) -> QuantizedRows:
    """Quantise float32 `[rows, width]` in blocks along each row; the last is padded with 0."""
    rows, width = weight.shape
    blocks = -(-width // block_size)
    codes = np.zeros((rows, blocks * block_size), np.int8)
    scales = np.empty((rows, blocks), np.float32)
    step = max(1, _ROWS_AT_ONCE // max(1, blocks * block_size))
    for start in range(0, rows, step):
        part = np.zeros((min(step, rows - start), blocks * block_size), np.float32)
        part[:, :width] = weight[start : start + step]
        flat_codes, flat_scales = _quantize_part(part.reshape(-1, block_size), bits)
        codes[start : start + step] = flat_codes.reshape(len(part), -1)
        scales[start : start + step] = flat_scales.reshape(len(part), -1)
    return QuantizedRows(codes, scales, width, bits, block_size)


def pack_blob(codes: Codes, bits: int, block_size: int) -> npt.NDArray[np.uint8]:
    """Pack codes `[rows, blocks * block_size]` as ONNX Runtime's `MatMulNBits` wants them.

    Returns uint8 `[rows, blocks, block_size * bits / 8]`: unsigned codes with zero point
    `2^(bits-1)`, for 4 bits the even element in the low nibble.
    """
    unsigned = (codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    blob = unsigned.reshape(len(codes), -1, block_size)
    if bits == 8:
        return blob
    return (blob[:, :, 0::2] | (blob[:, :, 1::2] << 4)).astype(np.uint8)
