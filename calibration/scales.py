"""Calibrated scales: what was measured on text, for any engine of the same model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LinearScales:
    """What one linear of N outputs and K inputs is quantised with.

    `pre_scale` float32 [K] multiplies the input, and its inverse the weight, before anything is
    rounded; projections that read one input (q, k, v; gate, up) share it. `amax` is the largest
    magnitude that a code stands for, of the weight after that: [N, K / block] for int4_awq, [N] for
    int8_sq, [] for fp8. `input_amax` is that of the input for int8_sq and fp8.
    """

    amax: Floats
    pre_scale: Floats | None = None
    input_amax: float | None = None


@dataclass(frozen=True)
class Scales:
    """Scales of a whole model.

    `weights` is the precision that `linears` is for, by weight name
    (`model.layers.N.self_attn.q_proj.weight`), or None when only the cache was calibrated. `kv`
    is the cache's precision or None; `cache` has the largest magnitude float32 [1] or
    [kv_heads * head_dim] under `N.key` and `N.value`; keys are cached rotated.
    """

    weights: str | None
    block_size: int
    linears: Mapping[str, LinearScales]
    kv: str | None
    cache: Mapping[str, Floats]
