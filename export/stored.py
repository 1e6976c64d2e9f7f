"""Linears as a quantised checkpoint stores them, whatever tool wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StoredLinear:
    """One linear of N outputs and K inputs, symmetric: `W[n, k] = codes[n, k] * scale`.

    `precision` is `int4_awq`, the name of any int4 weight with block scales (codes int8 [N, K] in
    -8..7, scales float32 [N, K / block_size]), or `fp8` (codes float8_e4m3fn [N, K], scales
    float32 [1, 1], block_size 0). `pre_scale` float32 [K] multiplies the input before the product,
    where the tool left one beside the weight. `input_scale` is the step of the fp8 activations.
    """

    precision: str
    codes: npt.NDArray[Any]
    scales: Floats
    block_size: int
    pre_scale: Floats | None = None
    input_scale: float | None = None

    def rows(self, start: int, stop: int) -> StoredLinear:
        """Return outputs [start, stop) alone, sharing this record's arrays."""
        scales = self.scales[start:stop] if self.block_size else self.scales
        return replace(self, codes=self.codes[start:stop], scales=scales)

    def dequantize(self) -> Floats:
        """Return the weight float32 [N, K] of a plain linear, pre-scale included."""
        weight: Floats = self.codes.astype(np.float32)
        rows, inputs = weight.shape
        groups = self.scales.shape[1]
        blocks = weight.reshape(rows, groups, inputs // groups)
        blocks *= self.scales[:, :, None]
        if self.pre_scale is not None:
            weight *= self.pre_scale
        return weight


@dataclass(frozen=True)
class CheckpointQuantization:
    """How a checkpoint is quantised: the tool's name (`modelopt`, `awq`, `gptq`), the precision of
    its linears (None where only the cache is quantised), and the scales of its cache.

    `symmetric` is False where zero points were dropped by rounding to nearest again: the error of
    each such linear is then reported. `kv` is the cache's precision or None; `cache` has the
    largest magnitude float32 [1] or [kv_heads * head_dim] by `LAYER.key` and `LAYER.value`.
    """

    tool: str
    precision: str | None
    block_size: int
    symmetric: bool
    kv: str | None
    cache: Mapping[str, Floats]
