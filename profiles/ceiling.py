"""How fast a decode step can be at best: the bytes it must read, and the memory's bandwidth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DecodeStep:
    """One step of `rows` sequences with `context` tokens each: bytes to read, the least
    milliseconds, and the most tokens a second over all rows."""

    rows: int
    context: int
    bytes: int
    ms: float
    tokens_per_s: float


@dataclass(frozen=True)
class Ceiling:
    """Three steps: a new sequence alone, a full one alone, and every slot full."""

    bandwidth_gb_s: float
    first: DecodeStep
    alone: DecodeStep
    full: DecodeStep


def decode_step(
    weights: int, kv_bytes_per_token: int, rows: int, context: int, bandwidth_gb_s: float
) -> DecodeStep:
    """Return the bound of one step; `weights` are the bytes that every step reads.

    t >= (weights + rows x context x kv_bytes_per_token) / bandwidth: a step multiplies each weight
    with few rows, so that memory, not arithmetic, is the bound (Williams, Waterman and Patterson,
    "Roofline", 2009; for the decode of transformers Pope et al., arXiv 2211.05102, section 2).
    """
    read = weights + rows * context * kv_bytes_per_token
    seconds = read / (bandwidth_gb_s * 1e9)
    return DecodeStep(rows, context, read, seconds * 1e3, rows / seconds)


def decode_ceiling(
    weights: int, kv_bytes_per_token: int, slots: int, capacity: int, bandwidth_gb_s: float
) -> Ceiling:
    """Return the bounds of a device; bytes are those of `decode_step`."""

    def step(rows: int, context: int) -> DecodeStep:
        return decode_step(weights, kv_bytes_per_token, rows, context, bandwidth_gb_s)

    return Ceiling(bandwidth_gb_s, step(1, 0), step(1, capacity), step(slots, capacity))
