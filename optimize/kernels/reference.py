"""The fused attention in float64, token by token: what every implementation is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgellama.optimize.kernels.attention_shape import AttentionShape

Floats = npt.NDArray[np.float64]
NUMPY = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "fp8": np.dtype(ml_dtypes.float8_e4m3fn),
}
LARGEST = {"int8": 127.0, "fp8": 448.0}


@dataclass
class Case:
    """The arrays of one run, in the types of its shape; the caches are changed by a run."""

    shape: AttentionShape
    qkv: npt.NDArray[np.generic]
    past_key: npt.NDArray[np.generic]
    past_value: npt.NDArray[np.generic]
    rows: npt.NDArray[np.int32]
    cos: npt.NDArray[np.float32]
    sin: npt.NDArray[np.float32]
    key_scale: npt.NDArray[np.float32]
    value_scale: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Expected:
    """The attention [tokens, heads x head_dim], the new cache entries by (slot, position), float64
    [kv_heads, head_dim] in codes where the cache has codes, and the largest value attended to."""

    attention: Floats
    keys: dict[tuple[int, int], Floats]
    values: dict[tuple[int, int], Floats]
    largest: float


def wide(array: npt.NDArray[np.generic]) -> Floats:
    """Return numbers of any type in float64."""
    return array.astype(np.float32).astype(np.float64)


def rotate(heads: Floats, cos: Floats, sin: Floats) -> Floats:
    """Rotate [heads, D] of one token by angles [D / 2]."""
    half = heads.shape[-1] // 2
    a, b = heads[:, :half], heads[:, half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def rounded(values: Floats, scale: Floats, kv_dtype: str) -> Floats:
    """Return what a cache holds of values, in codes where it has codes."""
    most = LARGEST.get(kv_dtype)
    if most is None:
        return wide(values.astype(np.float32).astype(NUMPY[kv_dtype]))
    units = np.clip(values / scale, -most, most)
    return np.rint(units) if kv_dtype == "int8" else wide(units.astype(NUMPY[kv_dtype]))


def expected(case: Case) -> Expected:
    """Compute the attention of every row; nothing behind a row's tokens is read."""
    shape = case.shape
    heads, group, size = shape.kv_heads, shape.group, shape.head_dim
    steps = [wide(scale) for scale in (case.key_scale, case.value_scale)]
    if not shape.is_quantized:
        steps = [np.ones((heads, size))] * 2
    attention = np.zeros((len(case.qkv), shape.heads * size))
    keys, values = {}, {}
    largest = 0.0
    for slot, first, count, past in case.rows.tolist():
        held = [
            list(wide(cache[slot, :, :past]).swapaxes(0, 1))
            for cache in (case.past_key, case.past_value)
        ]
        for index in range(count):
            token, position = first + index, past + index
            line = wide(case.qkv[token]).reshape(-1, size)
            cos, sin = wide(case.cos[position]), wide(case.sin[position])
            query = rotate(line[: heads * group], cos, sin)
            key = rotate(line[heads * group : heads * (group + 1)], cos, sin)
            held[0].append(rounded(key, steps[0], shape.kv_dtype))
            held[1].append(rounded(line[heads * (group + 1) :], steps[1], shape.kv_dtype))
            keys[slot, position], values[slot, position] = held[0][-1], held[1][-1]
            seen_keys, seen_values = (
                np.stack(part) * step for part, step in zip(held, steps, strict=True)
            )
            grouped = query.reshape(heads, group, size)
            logits = np.einsum("hgd,nhd->hgn", grouped, seen_keys) * size**-0.5
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            mixed = np.einsum("hgn,nhd->hgd", weights, seen_values)
            attention[token] = mixed.reshape(-1)
            largest = max(largest, float(np.abs(seen_values).max()))
    return Expected(attention, keys, values, largest)


def angle_tables(positions: int, head_dim: int) -> tuple[npt.NDArray[np.float32], ...]:
    """Return cosines and sines float32 [positions, head_dim / 2] of Llama 3's frequencies."""
    frequencies = 500000.0 ** (-np.arange(head_dim // 2) * 2 / head_dim)
    angles = np.arange(positions)[:, None] * frequencies[None, :]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def make_case(
    shape: AttentionShape,
    rows: list[tuple[int, int, int]],
    capacity: int,
    *,
    slots: int,
    seed: int = 0,
    spread: float = 1.0,
) -> Case:
    """Draw a case; `rows` are (slot, tokens, tokens held), their tokens lie behind each other.

    What no row holds is NaN, or the largest code: nothing may read it.
    """
    rng = np.random.default_rng(seed)
    own, kept = NUMPY[shape.dtype], NUMPY[shape.kv_dtype]
    tokens = sum(count for _, count, _ in rows)
    qkv = (rng.standard_normal((tokens, shape.width)) * spread).astype(np.float32).astype(own)
    steps = [
        (rng.uniform(0.5, 2.0, (shape.kv_heads, shape.head_dim)) * spread / 40).astype(np.float32)
        for _ in range(2)
    ]
    caches = []
    sizes = (slots, shape.kv_heads, capacity, shape.head_dim)
    for step in steps:
        values = rng.standard_normal(sizes) * spread
        if shape.is_quantized:
            most = LARGEST[shape.kv_dtype]
            values = np.clip(values / step[None, :, None], -most, most)
            values = np.rint(values) if shape.kv_dtype == "int8" else values
        cache = values.astype(np.float32).astype(kept)
        unused = np.ones((slots, capacity), bool)
        for slot, _, past in rows:
            unused[slot, :past] = False
        nothing = 127 if shape.kv_dtype == "int8" else np.nan
        cache.swapaxes(1, 2)[unused] = np.array(nothing).astype(kept)
        caches.append(cache)
    table, first = [], 0
    for slot, count, past in rows:
        table.append([slot, first, count, past])
        first += count
    cos, sin = angle_tables(capacity, shape.head_dim)
    rows_array = np.array(table, np.int32).reshape(-1, 4)
    return Case(shape, qkv, caches[0], caches[1], rows_array, cos, sin, steps[0], steps[1])


# Half a unit in the last place, relative.
ROUNDING = {"fp16": 2.0**-11, "bf16": 2.0**-8}


def tolerance(case: Case, found: Expected) -> float:
    """Return the largest error of an attention that its roundings explain.

    A value is multiplied by a weight, rounded once, and the sum is rounded once: two roundings of
    the largest value. A query is rounded once, after the key's steps went into it: a logit of the
    size L moves by L roundings and with it a weight, so that the sum moves by twice that.
    """
    size = case.shape.head_dim
    largest = np.abs(wide(case.qkv)).max()
    # Of a head of equal numbers; the mean of products of independent ones is smaller.
    logit = min(largest * size**0.5 * largest / 8, 30.0)
    return float((2 + 2 * logit) * ROUNDING[case.shape.dtype] * found.largest)
