"""Ranges of a narrower cache: what every key reaches at every position, and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.calibration.cache_range import (
    HEADROOM,
    CacheRange,
    Floats,
    inverse_frequencies,
    key_range,
)
from edgellama.profiles.model import ModelConfig, RopeScaling
from edgellama.profiles.profile import CALIBRATED_KV, KV_GRANULARITIES

HEADS, PAIRS = 2, 4
FREQUENCIES = 10000.0 ** -(np.arange(PAIRS) / PAIRS)
MODEL = ModelConfig(
    vocab_size=64,
    hidden_size=256,
    intermediate_size=256,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=128,
    max_position_embeddings=131072,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192),
    tie_word_embeddings=False,
)


def draw(seed: int, tokens: int, size: float = 1.0) -> Floats:
    shape = (tokens, HEADS, 2 * PAIRS)
    return (size * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def turn(keys: Floats, positions: np.ndarray) -> Floats:
    """Rotate keys as if their tokens stood at `positions` [tokens]; a dense loop over channels."""
    turned = np.empty_like(keys)
    for pair, frequency in enumerate(FREQUENCIES):
        cos = np.cos(positions * frequency)[:, None]
        sin = np.sin(positions * frequency)[:, None]
        first, second = keys[..., pair], keys[..., pair + PAIRS]
        turned[..., pair] = first * cos - second * sin
        turned[..., pair + PAIRS] = second * cos + first * sin
    return turned


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 40), st.integers(0, 60))
def test_a_range_is_what_a_key_reaches_between_the_first_and_the_last_position(
    seed: int, tokens: int, start: int, more: int
) -> None:
    keys, capacity = draw(seed, tokens), start + tokens + more
    met = turn(keys, start + np.arange(tokens))
    found = key_range(met, start, FREQUENCIES, capacity)
    positions = np.linspace(0, capacity - 1, 20 * capacity)  # finer than a token
    reached = np.max([np.abs(turn(keys, np.full(tokens, p))) for p in positions], axis=(0, 1))
    np.testing.assert_allclose(found, reached, rtol=2e-3, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(0, 40), st.integers(0, 10**6))
def test_a_range_lies_between_what_was_met_and_the_length_of_the_pair(
    seed: int, tokens: int, start: int, more: int
) -> None:
    keys = draw(seed, tokens)
    found = key_range(keys, start, FREQUENCIES, start + tokens + more)
    lengths = np.hypot(keys[..., :PAIRS], keys[..., PAIRS:]).max(axis=0)
    assert (found >= np.abs(keys).max(axis=0)).all()
    assert (found <= np.tile(lengths, 2) * (1 + 1e-6)).all()
    wider = key_range(keys, start, FREQUENCIES, 2 * (start + tokens + more))
    assert (wider >= found - 1e-6).all()


def test_a_slow_pair_keeps_two_ranges_and_a_fast_pair_shares_one() -> None:
    keys = np.zeros((2, 1, 2 * PAIRS), np.float32)
    keys[1, 0, 0] = keys[1, 0, PAIRS - 1] = 10.0  # position 1, first channels of two pairs
    found = key_range(keys, 0, FREQUENCIES, 100)[0]
    assert found[[0, PAIRS]] == pytest.approx([10.0, 10.0], rel=1e-6)
    assert found[PAIRS - 1] == pytest.approx(10.0, rel=1e-3)
    assert found[-1] == pytest.approx(10.0 * np.sin(98 * FREQUENCIES[-1]), rel=1e-6)


def test_the_first_token_is_not_moved() -> None:
    keys = np.zeros((1, 1, 2 * PAIRS), np.float32)
    keys[0, 0, 0] = 50.0
    assert key_range(keys, 0, FREQUENCIES, 100)[0, PAIRS] == 0
    assert key_range(keys, 1, FREQUENCIES, 100)[0, PAIRS] > 49


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 30), min_size=1, max_size=4),
    st.floats(1e-35, 1e35),
    st.sampled_from(CALIBRATED_KV),
    st.sampled_from(KV_GRANULARITIES),
)
def test_ranges_cover_all_text_and_are_positive(
    seed: int, lengths: list[int], size: float, precision: str, granularity: str
) -> None:
    gathered = CacheRange(FREQUENCIES, 64)
    texts = [(draw(seed + i, n, size), draw(seed + 9 + i, n, size)) for i, n in enumerate(lengths)]
    for keys, values in texts:
        gathered.add(keys, values)
    found = gathered.ranges(precision, granularity)
    width = 1 if granularity == "tensor" else HEADS * 2 * PAIRS
    for index, kind in enumerate(("key", "value")):
        assert found[kind].dtype == np.float32 and found[kind].shape == (width,)
        assert np.isfinite(found[kind]).all() and (found[kind] > 0).all()
        for text in texts:
            assert (np.abs(text[index]).reshape(len(text[index]), -1) <= found[kind]).all()


def test_pieces_of_a_sequence_give_what_the_whole_gives() -> None:
    keys, values = draw(1, 600), draw(2, 600)
    whole, pieces = CacheRange(FREQUENCIES, 600), CacheRange(FREQUENCIES, 600)
    whole.add(keys, values)
    for start in range(0, 600, 77):
        pieces.add(keys[start : start + 77], values[start : start + 77], start)
    found = whole.ranges("int8", "channel")
    for kind, parts in pieces.ranges("int8", "channel").items():
        np.testing.assert_allclose(parts, found[kind], rtol=1e-6)
    at_once = HEADROOM["int8"] * key_range(keys, 0, FREQUENCIES, 600).reshape(-1)
    np.testing.assert_allclose(found["key"], at_once, rtol=1e-6)


def test_a_channel_without_a_value_gets_a_step() -> None:
    gathered = CacheRange(FREQUENCIES, 8)
    nothing = np.zeros((3, HEADS, 2 * PAIRS), np.float32)
    gathered.add(nothing, nothing)
    for granularity in KV_GRANULARITIES:
        for found in gathered.ranges("int8", granularity).values():
            assert (found == 1).all()


def test_what_cannot_be_measured_is_refused() -> None:
    gathered, keys = CacheRange(FREQUENCIES, 8), draw(0, 4)
    with pytest.raises(ValueError, match="no calibration text"):
        gathered.ranges("int8", "channel")
    with pytest.raises(ValueError, match="kv_heads, 8"):
        gathered.add(keys[..., :6], keys[..., :6])
    with pytest.raises(ValueError, match="outside the capacity 8"):
        gathered.add(keys, keys, 5)
    with pytest.raises(ValueError, match="values have NaN"):
        gathered.add(keys, keys * np.float32("nan"))
    gathered.add(keys, keys)
    with pytest.raises(ValueError, match="'fp16' by 'channel'"):
        gathered.ranges("fp16", "channel")


@pytest.mark.parametrize("scaled", [True, False])
def test_frequencies_are_those_of_transformers(scaled: bool) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {"rope_type": "default", "rope_theta": 500000.0}
    if scaled:
        rope |= {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    config = transformers.LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        head_dim=128,
        max_position_embeddings=131072,
        rope_parameters=rope,
    )
    model = MODEL if scaled else replace(MODEL, rope_scaling=None)
    np.testing.assert_allclose(
        inverse_frequencies(model), LlamaRotaryEmbedding(config).inv_freq.numpy(), rtol=1e-6
    )


def test_every_calibrated_precision_has_a_headroom() -> None:
    assert set(HEADROOM) == set(CALIBRATED_KV)
