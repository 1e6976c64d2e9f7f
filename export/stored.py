"""Linears as a quantised checkpoint stores them, whatever tool wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

    def dequantize(self) -> Floats:
        """Return the weight float32 [N, K] of a plain linear, pre-scale included."""
        codes = self.codes.astype(np.float32)
        if self.block_size:
            rows, blocks = self.scales.shape
            codes = (codes.reshape(rows, blocks, -1) * self.scales[:, :, None]).reshape(rows, -1)
        else:
            codes = codes * self.scales
        return codes if self.pre_scale is None else codes * self.pre_scale


@dataclass(frozen=True)
class CheckpointQuantization:
    """How a checkpoint is quantised: the tool's name (`modelopt`, `awq`, `gptq`), the precision of
    its linears, and the scales of its cache.

    `symmetric` is False where zero points were dropped by rounding to nearest again: the error of
    each such linear is then reported. `kv` is the cache's precision or None; `cache` has the
    largest magnitude float32 [1] or [kv_heads * head_dim] by `LAYER.key` and `LAYER.value`.
    """

    tool: str
    precision: str
    block_size: int
    symmetric: bool
    kv: str | None
    cache: Mapping[str, Floats]
