"""Scales of an int8 key-value cache, read off the float cache of a running engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellama.calibration.text import PASSAGES, QUESTIONS
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.ort import OrtBackend
from edgellama.runtime.text import TextCodec

Floats = npt.NDArray[np.float32]
LARGEST_CODE = 127
# What serving meets beyond the calibration text: values up to this factor are not clipped.
HEADROOM = 1.05


@dataclass(frozen=True)
class CacheScales:
    """A scale for each channel `[kv_heads * head_dim]`, by cache name `LAYER.key`, `LAYER.value`.

    A cached value is `code * scale`, code int8. Per channel, because a few channels of the keys
    are many times larger than the rest (KIVI, arXiv:2402.02750, section 3.1).
    """

    channels: Mapping[str, Floats]


def calibration_ids(codec: TextCodec, capacity: int) -> list[list[int]]:
    """Return the default text as token ids, chats included when the model has a template."""
    samples = [codec.encode(text) for text in PASSAGES]
    if codec.has_chat_template:
        samples += [codec.encode_chat([ChatMessage("user", text)]) for text in QUESTIONS]
    return [ids[:capacity] for ids in samples if ids]


def radius(keys: Floats) -> Floats:
    """Return the length of each rotated pair, for both of its channels, `[kv_heads, n, head_dim]`.

    Rotary embedding turns the channels i and i + head_dim / 2 around each other by an angle that
    grows with the position. A short text sees few angles; the length bounds them all.
    """
    first, second = np.split(keys, 2, axis=-1)
    length = np.hypot(first, second)
    return np.concatenate([length, length], axis=-1)


def calibrate_cache(
    backend: OrtBackend, samples: Sequence[Sequence[int]], chunk: int
) -> CacheScales:
    """Run the samples through slot 0 of a float-cache engine; returns scales by absolute maximum.

    Raises ValueError when there is no token to calibrate with.
    """
    if not samples:
        raise ValueError("no calibration text: at least one token is needed")
    largest: dict[str, Floats] = {}
    for ids in samples:
        for start in range(0, len(ids), chunk):
            backend.run_tokens(0, ids[start : start + chunk], start)
        for name, cache in backend.cache(0, len(ids)).items():
            sizes = radius(cache) if name.endswith(".key") else np.abs(cache)
            peak = sizes.max(axis=1).reshape(-1)
            largest[name] = np.maximum(largest.get(name, peak), peak)
    tiny = np.finfo(np.float32).tiny
    return CacheScales(
        {
            # A channel that stayed 0 gets any positive scale: it decodes to 0 all the same.
            name: np.where(peak > tiny, peak * HEADROOM / LARGEST_CODE, 1.0).astype(np.float32)
            for name, peak in largest.items()
        }
    )
