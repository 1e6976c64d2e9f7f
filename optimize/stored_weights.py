"""The float value of each weight, input and cache entry as an engine of given precision has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgellama.calibration.scales import LinearScales, Scales
from edgellama.export.stored import StoredLinear
from edgellama.optimize.quantize import quantize_rows
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import CALIBRATED_WEIGHTS, FLOAT_PRECISIONS, Precision

Floats = npt.NDArray[np.float32]
Stored: TypeAlias = Callable[[str], StoredLinear | None]
_TABLES = ("lm_head.weight", "model.embed_tokens.weight")
_BITS = {"int8": 8, "int4_rtn": 4}
_HALVES: dict[str, Any] = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
_INTEGERS = {"int8": (-128, 127), "int8_sq": (-128, 127), "int4_awq": (-8, 7)}
_TINY = 2.0**-24


def _round(values: Floats, amax: Floats | np.float32, kind: str) -> Floats:
    """Return the values as codes of `kind` say them; `amax` broadcasts over them."""
    low, high = _INTEGERS.get(kind, (-448, 448))
    step = np.where(amax > _TINY, amax / np.float32(high), np.float32(np.inf))
    codes = values / step
    if kind in _INTEGERS:
        codes = np.clip(np.rint(codes), low, high)
    else:
        codes = np.clip(codes, low, high).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    step[np.isinf(step)] = 0
    return np.asarray(codes * step, np.float32)


class StoredWeights:
    """Rounds what an engine rounds, by other code than the passes: `weights(name, rows)` -> rows.

    `rows` is float32 [N, K], a row for each output; a table may be given in parts. With these
    weights, `inputs` and `cached` the model in float32 is what the quantised engine must compute,
    up to its kernels' own rounding; against the original weights it tells what the precision loses.
    """

    def __init__(
        self,
        model: ModelConfig,
        precision: Precision,
        scales: Scales | None = None,
        stored: Stored | None = None,
    ) -> None:
        self._precision = precision
        self._scales = scales
        self._stored = stored
        self._kv_shape = (model.num_kv_heads, 1, model.head_dim)

    @property
    def is_exact(self) -> bool:
        """Whether every weight, input and cache entry is kept as it is."""
        return self._precision.is_float32

    @property
    def rounds_inputs(self) -> bool:
        """Whether the inputs of the layers' linears are quantised, so that `inputs` matters."""
        return self._precision.weights in ("fp8", "int8_sq")

    @property
    def rounds_cache(self) -> bool:
        """Whether keys and values are rounded, so that `cached` matters."""
        return self._precision.kv not in FLOAT_PRECISIONS

    def __call__(self, name: str, rows: Floats) -> Floats:
        """Return the rounded weight of the same shape: a pre-scale and its inverse cancel."""
        precision = self._precision
        kind = precision.embedding if name in _TABLES else precision.weights
        if kind == "fp32":
            return rows
        if kind in _HALVES:
            return rows.astype(_HALVES[kind]).astype(np.float32)
        if kind == "int8_rows":
            return quantize_rows(rows, 8, rows.shape[1]).dequantize()
        if kind in _BITS:
            return quantize_rows(rows, _BITS[kind], precision.block_size).dequantize()
        stored = self._linear(name)
        if stored is not None:
            return stored.dequantize()
        scales = self._of(name)
        pre_scale = np.float32(1) if scales.pre_scale is None else scales.pre_scale
        amax = scales.amax
        if kind == "int4_awq":
            amax = np.repeat(amax, precision.block_size, axis=1)[:, : rows.shape[1]]
        elif kind == "int8_sq":
            amax = amax[:, None]
        return _round(rows / pre_scale, amax, kind) * pre_scale

    def inputs(self, name: str, x: Floats) -> Floats:
        """Return the input [..., K] of the linear of weight `name` as the engine rounds it."""
        kind = self._precision.weights
        if not self.rounds_inputs or name in _TABLES:
            return x
        stored = self._linear(name)
        if stored is not None:
            assert stored.input_scale is not None
            amax, pre_scale = np.float32(stored.input_scale * 448), stored.pre_scale
        else:
            scales = self._of(name)
            assert scales.input_amax is not None
            amax, pre_scale = np.float32(scales.input_amax), scales.pre_scale
        factors = np.float32(1) if pre_scale is None else pre_scale
        return np.asarray(_round(x * factors, amax, kind) / factors, np.float32)

    def cached(self, layer: int, kind: str, states: Floats) -> Floats:
        """Return rotated keys or values [kv_heads, S, head_dim] as the cache keeps them; `kind` is
        `key` or `value`."""
        if not self.rounds_cache:
            return states
        assert self._scales is not None
        amax = self._scales.cache[f"{layer}.{kind}"]
        wide = amax.reshape(self._kv_shape) if amax.size > 1 else amax
        return _round(states, wide, self._precision.kv)

    def _linear(self, name: str) -> StoredLinear | None:
        """Return a linear of the checkpoint whose codes the engine keeps, if they are kept."""
        kind = self._precision.weights
        if self._stored is None or kind not in CALIBRATED_WEIGHTS or name in _TABLES:
            return None
        linear = self._stored(name)
        return linear if linear is not None and linear.precision == kind else None

    def _of(self, name: str) -> LinearScales:
        assert self._scales is not None, f"precision {self._precision.weights} has scales"
        return self._scales.linears[name]
