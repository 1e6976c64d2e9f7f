"""Triton's interpreter with the arithmetic of the hardware.

The interpreter of Triton 3.9 keeps bfloat16 and E4M3 as integers: it multiplies bfloat16 matrices
as the integers that their bits spell, cuts where a GPU rounds to nearest even, converts integers
to bfloat16 bit by bit, and drops the smallest E4M3 numbers. `correct` replaces those conversions,
products and sums.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import triton.language as tl
from triton.runtime import interpreter

STORED_AS_INTEGERS = {
    tl.bfloat16: np.dtype(ml_dtypes.bfloat16),
    tl.float8e4nv: np.dtype(ml_dtypes.float8_e4m3fn),
}
_plain_binary = interpreter.InterpreterBuilder.binary_op
_plain_cast = interpreter.InterpreterBuilder.cast_impl


def _numbers(handle: interpreter.TensorHandle) -> npt.NDArray:
    """Return the numbers of a tensor, whatever it is stored as."""
    stored = STORED_AS_INTEGERS.get(handle.dtype.scalar)
    return handle.data if stored is None else handle.data.view(stored)


def _cast(
    builder: interpreter.InterpreterBuilder, source: interpreter.TensorHandle, to: tl.dtype
) -> interpreter.TensorHandle:
    """Convert to nearest even, as the instructions of a GPU do."""
    kinds = (source.dtype.scalar, to.scalar)
    if not any(kind in STORED_AS_INTEGERS for kind in kinds):
        return _plain_cast(builder, source, to)
    stored = STORED_AS_INTEGERS.get(to.scalar)
    wide = _numbers(source).astype(np.float32)
    if stored is None:
        data = wide.astype(interpreter._get_np_dtype(to))
    else:
        data = wide.astype(stored).view(interpreter._get_np_dtype(to))
    return interpreter.TensorHandle(data, to.scalar)


def _dot(builder, a, b, d, input_precision, max_num_imprecise_acc):  # type: ignore[no-untyped-def]
    """Multiply in float32: products of two 16-bit numbers are exact in it."""
    wide = [_numbers(each).astype(np.float32) for each in (a, b)]
    product = np.matmul(*wide, dtype=d.data.dtype)
    return interpreter.TensorHandle(product + d.data, d.dtype.scalar)


def _binary(builder, lhs, rhs, op):  # type: ignore[no-untyped-def]
    """Compute in float32 and round once."""
    kind = lhs.dtype.scalar
    if kind not in STORED_AS_INTEGERS:
        return _plain_binary(builder, lhs, rhs, op)
    found = op(*(_numbers(each).astype(np.float32) for each in (lhs, rhs)))
    if found.dtype == np.bool_:
        return interpreter.TensorHandle(found, kind)
    data = found.astype(STORED_AS_INTEGERS[kind]).view(lhs.data.dtype)
    return interpreter.TensorHandle(data, kind)


def correct() -> None:
    """Give the interpreter of this process the exact conversions; further calls change nothing."""
    builder = interpreter.InterpreterBuilder
    builder.cast_impl = _cast
    builder.create_fp_to_fp = lambda self, source, to, rounding: _cast(self, source, to)
    builder.create_dot = _dot
    builder.binary_op = _binary
