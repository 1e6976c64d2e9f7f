"""How far the cached keys and values of one layer reach at any position, for a narrower cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import KV_GRANULARITIES

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
# What serving meets beyond the calibration text, by precision: values up to this factor are not
# clipped. Every value pays for it with a wider step in int8; in fp8 only the subnormal ones do.
HEADROOM = {"int8": 1.05, "fp8": 2.0}
# A channel below this is 0 to attention; the step of any range decodes it to 0 all the same.
_NOTHING = 1e-30
_ROWS = 128  # tokens looked at together: their float64 work space stays in the processor's cache


def inverse_frequencies(model: ModelConfig) -> Doubles:
    """Return how far each pair turns a position, radians float64 [head_dim / 2].

    theta ** (-2 i / head_dim) (RoFormer, arXiv:2104.09864, section 3.2.2); the `llama3` scaling as
    transformers defines it: slow pairs divided by `factor`, blended between the two wavelengths.
    """
    pairs = np.arange(0, model.head_dim, 2, dtype=np.float64)
    plain: Doubles = model.rope_theta ** (-pairs / model.head_dim)
    scaling = model.rope_scaling
    if scaling is None:
        return plain
    turns = scaling.original_max_position_embeddings * plain / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return plain * (share + (1 - share) / scaling.factor)


def key_range(keys: Floats, start: int, frequencies: Doubles, capacity: int) -> Doubles:
    """Return the largest magnitude [kv_heads, head_dim] of the keys at any position of a sequence.

    `keys` [tokens, kv_heads, head_dim] are rotated, at the positions from `start` on; channels i
    and i + head_dim / 2 are a pair, turned around each other by position * frequency. The text has
    a token at one position, serving at any below `capacity`: the pair of length r sweeps an arc
    and reaches r * max |cos| along it. A slow pair sweeps a short arc, so that its two channels
    keep ranges of their own; a fast one reaches r in both. The first token of a sequence is always
    at position 0 and is taken as it is: it draws attention and is often far larger than the rest
    (arXiv:2309.17453).
    """
    first, second = np.split(keys.astype(np.float64), 2, axis=-1)
    pair, length = first + 1j * second, np.hypot(first, second)
    positions = start + np.arange(len(keys), dtype=np.float64)[:, None, None]
    begin = pair * np.exp(-1j * positions * frequencies)  # the arc's ends
    end = pair * np.exp(1j * (capacity - 1 - positions) * frequencies)
    # Within half a turn a channel peaks where the other one changes its sign, else at an end.
    half_turn = (capacity - 1) * frequencies >= np.pi
    reaches = [
        np.where(half_turn | (there[0] * there[1] <= 0), length, np.maximum(*np.abs(here)))
        for here, there in (
            ((begin.real, end.real), (begin.imag, end.imag)),
            ((begin.imag, end.imag), (begin.real, end.real)),
        )
    ]
    swept = np.concatenate(reaches, axis=-1)
    swept[: max(0, 1 - start)] = 0  # position 0
    reached: Doubles = np.maximum(swept, np.abs(keys)).max(axis=0)
    return reached


def value_range(values: Floats) -> Doubles:
    """Return the largest magnitude [kv_heads, head_dim] of values [tokens, kv_heads, head_dim]."""
    largest: Doubles = np.abs(values).max(axis=0).astype(np.float64)
    return largest


class CacheRange:
    """Ranges of one layer's cache, gathered sequence by sequence.

    `frequencies` are those of `inverse_frequencies`; `capacity` is the number of positions that
    the scales are for: a slot's where the engine is known, else the model's context length.
    """

    def __init__(self, frequencies: npt.ArrayLike, capacity: int) -> None:
        self._frequencies = np.asarray(frequencies, np.float64)
        self._capacity = capacity
        self._key: Doubles | None = None
        self._value: Doubles | None = None

    def add(self, keys: Floats, values: Floats, start: int = 0) -> None:
        """Take consecutive tokens of a sequence, the first of them at position `start`.

        Keys, rotated, and values are [tokens, kv_heads, head_dim]. Raises ValueError for shapes
        that differ, for positions beyond the capacity and for NaN or infinity.
        """
        pairs = len(self._frequencies)
        if keys.shape != values.shape or keys.ndim != 3 or keys.shape[2] != 2 * pairs:
            raise ValueError(
                f"keys {keys.shape} and values {values.shape} must both be "
                f"[tokens, kv_heads, {2 * pairs}]"
            )
        if start < 0 or start + len(keys) > self._capacity:
            raise ValueError(
                f"tokens at positions {start} to {start + len(keys)} lie outside the capacity "
                f"{self._capacity}; calibrate with shorter sequences"
            )
        for name, array in (("keys", keys), ("values", values)):
            if not np.isfinite(array).all():
                raise ValueError(f"the {name} have NaN or infinity; the model cannot be calibrated")
        for row in range(0, len(keys), _ROWS):
            block = keys[row : row + _ROWS]
            key = key_range(block, start + row, self._frequencies, self._capacity)
            value = value_range(values[row : row + _ROWS])
            self._key = key if self._key is None else np.maximum(self._key, key)
            self._value = value if self._value is None else np.maximum(self._value, value)

    def ranges(self, precision: str, granularity: str) -> dict[str, Floats]:
        """Return the magnitude that the largest code stands for, of `key` and of `value`.

        float32 [1] for a tensor, [kv_heads * head_dim] for channels, each > 0 and finite. Raises
        ValueError when no token was added.
        """
        if precision not in HEADROOM or granularity not in KV_GRANULARITIES:
            raise ValueError(
                f"cache of {precision!r} by {granularity!r}: the precision must be one of "
                f"{', '.join(HEADROOM)}, the granularity one of {', '.join(KV_GRANULARITIES)}"
            )
        if self._key is None or self._value is None:
            raise ValueError("no calibration text: at least one token is needed")
        found = {}
        for kind, peak in (("key", self._key), ("value", self._value)):
            chosen = peak.reshape(-1) if granularity == "channel" else peak.max(keepdims=True)
            wide = np.where(chosen > _NOTHING, chosen * HEADROOM[precision], 1.0).reshape(-1)
            found[kind] = np.minimum(wide, np.finfo(np.float32).max).astype(np.float32)
        return found
