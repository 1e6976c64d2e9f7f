"""Weights as codes and scales, made slice by slice: rounded, calibrated, stored, joined, scaled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from edgellama.export.stored import StoredLinear
from edgellama.optimize.float_rows import Floats, float_slices
from edgellama.optimize.quantize import quantize_rows

Codes: TypeAlias = npt.NDArray[Any]
# What modelopt takes for zero: such a block holds zeros whatever its scale.
TINY = 2.0**-24
# Largest magnitude of a code; a scale is what it stands for divided by this.
LARGEST = {ir.DataType.INT4: 7.0, ir.DataType.INT8: 127.0, ir.DataType.FLOAT8E4M3FN: 448.0}


@dataclass(frozen=True)
class Layout:
    """A weight of N outputs and K inputs: the code type, and what shares a scale.

    `block_size` inputs of an output share one; 0 means one an output (`per_tensor` False) or one
    for the whole weight.
    """

    outputs: int
    inputs: int
    dtype: ir.DataType
    block_size: int
    per_tensor: bool = False

    @property
    def scales_a_row(self) -> int:
        """Scales of one output."""
        return -(-self.inputs // self.block_size) if self.block_size else 1


@dataclass(frozen=True, eq=False)
class Slice:
    """Outputs from `start` on: codes [n, K] of the layout's type (int4 as int8), and scales float32
    [n, scales_a_row]; a per-tensor scale is repeated for each output."""

    start: int
    codes: Codes
    scales: Floats


class QuantizedWeight(Protocol):
    """A weight that is quantised when it is read, a slice of outputs at a time."""

    @property
    def layout(self) -> Layout:
        """Return its shape and what shares a scale."""

    def slices(self) -> Iterator[Slice]:
        """Yield all outputs in order."""


def encode(scaled: Floats, dtype: ir.DataType) -> Codes:
    """Round values that are divided by their scale already; ties go to the even code."""
    if dtype == ir.DataType.FLOAT8E4M3FN:
        limit = LARGEST[dtype]
        clipped = torch.from_numpy(np.clip(scaled, -limit, limit))
        coded = clipped.to(torch.float8_e4m3fn)  # as ml_dtypes does, in a sixth of the time
        return coded.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn)
    limit = LARGEST[dtype]
    return np.clip(np.rint(scaled), -limit - 1, limit).astype(np.int8)


def scale_of(amax: Floats | np.float32, dtype: ir.DataType) -> Floats:
    """Return the step of the codes; what is all zero gets 1, because runtimes refuse 0."""
    step = np.asarray(amax, np.float32) / np.float32(LARGEST[dtype])
    return np.where(amax <= TINY, np.float32(1), step).astype(np.float32)


@dataclass(frozen=True, eq=False)
class RoundedWeight:
    """Rounded to nearest in blocks, or a whole output at once, with the best of a few scales."""

    tensor: ir.TensorProtocol
    layout: Layout
    transposed: bool

    def slices(self) -> Iterator[Slice]:
        """Quantise slice by slice."""
        bits = 4 if self.layout.dtype == ir.DataType.INT4 else 8
        block_size = self.layout.block_size or self.layout.inputs
        for start, weight in float_slices(self.tensor, transposed=self.transposed):
            rows = quantize_rows(weight, bits, block_size)
            yield Slice(start, rows.codes[:, : rows.width], rows.scales)


@dataclass(frozen=True, eq=False)
class CalibratedWeight:
    """Quantised with calibrated magnitudes, as modelopt does.

    `amax` is [N, K / block], [N] or [], as the layout says; `pre_scale` [K] divides the weight.
    Modelopt multiplies by (largest code / amax) where others divide by the scale; so do we, for the
    same codes.
    """

    tensor: ir.TensorProtocol
    layout: Layout
    amax: Floats
    pre_scale: Floats | None

    def slices(self) -> Iterator[Slice]:
        """Quantise slice by slice."""
        layout = self.layout
        largest = np.float32(LARGEST[layout.dtype])
        inverse = None if self.pre_scale is None else np.float32(1) / self.pre_scale
        wide = np.broadcast_to(
            self.amax.reshape(1, 1) if layout.per_tensor else self.amax.reshape(layout.outputs, -1),
            (layout.outputs, layout.scales_a_row),
        ).astype(np.float32, copy=False)
        for start, weight in float_slices(self.tensor, transposed=True):
            amax = wide[start : start + len(weight)]
            scaled = weight if inverse is None else weight * inverse
            with np.errstate(divide="ignore"):
                factors = np.where(amax <= TINY, np.float32(0), largest / amax)
            each = spread(factors, layout)
            yield Slice(start, encode(scaled * each, layout.dtype), scale_of(amax, layout.dtype))


def spread(scales: Floats, layout: Layout) -> Floats:
    """Return scales [n, scales_a_row] repeated to [n, K], or [n, 1] where one covers the row."""
    if not layout.block_size:
        return scales
    return np.repeat(scales, layout.block_size, axis=1)[:, : layout.inputs]


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """Codes and scales of a quantised checkpoint, read when wanted and used as they are."""

    read: Callable[[], StoredLinear]
    layout: Layout

    def slices(self) -> Iterator[Slice]:
        """Yield the whole linear: the checkpoint is read a tensor at a time."""
        linear = self.read()
        shape = (self.layout.outputs, self.layout.scales_a_row)
        yield Slice(0, linear.codes, np.broadcast_to(linear.scales, shape))


@dataclass(frozen=True, eq=False)
class ScaledWeight:
    """A weight whose outputs are multiplied by `factors` [N]: its scales are, its codes stay."""

    weight: QuantizedWeight
    factors: Floats

    @property
    def layout(self) -> Layout:
        """A per-tensor scale becomes one an output."""
        return replace(self.weight.layout, per_tensor=False)

    def slices(self) -> Iterator[Slice]:
        """Scale slice by slice."""
        for part in self.weight.slices():
            factors = self.factors[part.start : part.start + len(part.scales), None]
            yield Slice(part.start, part.codes, part.scales * factors)


@dataclass(frozen=True, eq=False)
class JoinedWeight:
    """Weights of the same input one behind the other: [q | k | v]."""

    weights: Sequence[QuantizedWeight]

    @property
    def layout(self) -> Layout:
        """Per-tensor scales differ from part to part, so they become one an output."""
        layouts = [weight.layout for weight in self.weights]
        outputs = sum(layout.outputs for layout in layouts)
        return replace(layouts[0], outputs=outputs, per_tensor=False)

    def slices(self) -> Iterator[Slice]:
        """Yield the parts' slices."""
        offset = 0
        for weight in self.weights:
            for part in weight.slices():
                yield replace(part, start=offset + part.start)
            offset += weight.layout.outputs
