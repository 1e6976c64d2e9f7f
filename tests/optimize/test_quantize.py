"""Block quantisation: bounds, exactness where it must be exact, and the packed layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.optimize.quantize import pack_blob, quantize_rows

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 150))
BLOCKS = st.sampled_from([32, 64, 128])


def weights(seed: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(st.integers(0, 2**32 - 1), SHAPES, BLOCKS, st.sampled_from([4, 8]))
def test_the_error_is_at_most_half_a_step_unless_clipped(
    seed: int, shape: tuple[int, int], block: int, bits: int
) -> None:
    weight = weights(seed, shape)
    quantized = quantize_rows(weight, bits, block)
    assert quantized.scales.shape == (shape[0], -(-shape[1] // block))
    assert (quantized.scales > 0).all()
    low, high = (-8, 7) if bits == 4 else (-128, 127)
    assert quantized.codes.min() >= low and quantized.codes.max() <= high
    step = np.repeat(quantized.scales, block, axis=1)[:, : shape[1]]
    codes = quantized.codes[:, : shape[1]]
    error = np.abs(quantized.dequantize() - weight)
    inside = (codes > low) & (codes < high)
    assert (error[inside] <= step[inside] * 0.5001).all()
    assert (error <= step * 1.001).all()
    assert (quantized.codes[:, shape[1] :] == 0).all()


@given(st.integers(0, 2**32 - 1), BLOCKS)
def test_four_bits_never_lose_to_the_plain_scale(seed: int, block: int) -> None:
    weight = weights(seed, (5, 3 * block))
    plain_scale = np.abs(weight.reshape(5, 3, block)).max(axis=2, keepdims=True) / 7
    plain = np.rint(weight.reshape(5, 3, block) / plain_scale) * plain_scale
    ours = quantize_rows(weight, 4, block).dequantize().reshape(5, 3, block)
    blocks = weight.reshape(5, 3, block)
    lost = np.square(ours - blocks).sum(axis=2)
    assert (lost <= np.square(plain - blocks).sum(axis=2) * (1 + 1e-5) + 1e-12).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_representable_weights_survive(bits: int) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(-7, 8, (4, 64))
    codes[:, ::32] = 7 if bits == 4 else 127
    weight = (codes * np.float32(0.25)).astype(np.float32)
    np.testing.assert_array_equal(quantize_rows(weight, bits, 32).dequantize(), weight)


@pytest.mark.parametrize("bits", [4, 8])
def test_huge_weights_survive(bits: int) -> None:
    weight = weights(3, (4, 64)) * np.float32(1e25)
    restored = quantize_rows(weight, bits, 32).dequantize()
    step = np.abs(weight).max() / (7 if bits == 4 else 127)
    assert np.abs(restored - weight).max() <= step


def test_zero_and_tiny_blocks_stay_finite() -> None:
    weight = np.zeros((2, 64), np.float32)
    weight[1, :3] = 1e-42
    quantized = quantize_rows(weight, 4, 32)
    assert np.isfinite(quantized.scales).all() and (quantized.scales > 0).all()
    np.testing.assert_allclose(quantized.dequantize(), 0, atol=1e-41)


def plainly(weight: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The definition: of a block's scales the one of the smallest squared error, in float32."""
    rows, width = weight.shape
    blocks = -(-width // block)
    padded = np.zeros((rows, blocks * block), np.float32)
    padded[:, :width] = weight
    parts = padded.reshape(-1, block)
    low, high, divisors = (-8, 7, (7.0, 7.5, 8.0)) if bits == 4 else (-128, 127, (127.0,))
    codes, scales = np.zeros(parts.shape, np.int8), np.zeros(len(parts), np.float32)
    for index, part in enumerate(parts):
        best = np.float32(np.inf)
        for divisor in divisors:
            scale = np.float32(np.abs(part).max() / np.float32(divisor))
            if scale < np.finfo(np.float32).tiny:
                scale = np.float32(1)
            trial = np.clip(np.rint(part / scale), low, high)
            with np.errstate(over="ignore"):
                error = np.square(trial * scale - part).sum()
            if error < best or divisor == divisors[0]:
                codes[index], scales[index], best = trial.astype(np.int8), scale, error
    return codes.reshape(rows, -1), scales.reshape(rows, -1)


def ties(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Halves and eighths of a power of two: quotients on the edge between two codes."""
    eighths = np.random.default_rng(seed).integers(-64, 65, shape)
    return (eighths * np.float32(0.125)).astype(np.float32)


KINDS = {
    "normal": weights,
    "ties": ties,
    "zero": lambda seed, shape: np.zeros(shape, np.float32),
    "huge": lambda seed, shape: weights(seed, shape) * np.float32(1e37),
    "subnormal": lambda seed, shape: weights(seed, shape) * np.float32(1e-38),
    "sparse": lambda seed, shape: weights(seed, shape) * (weights(seed + 1, shape) > 1.8),
    "small beside large": lambda seed, shape: weights(seed, shape) ** 15,
}


@given(
    st.sampled_from(list(KINDS)),
    st.integers(0, 2**31),
    SHAPES,
    st.sampled_from([16, 32, 128, 256]),
    st.sampled_from([4, 8]),
    st.sampled_from([1, 300, 1 << 16]),
)
def test_every_bit_is_that_of_the_definition(
    kind: str, seed: int, shape: tuple[int, int], block: int, bits: int, at_once: int
) -> None:
    weight = np.asarray(KINDS[kind](seed, shape), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgellama.optimize.quantize._ELEMENTS_AT_ONCE", at_once)
        ours = quantize_rows(weight, bits, block)
        sliced = quantize_rows(np.asfortranarray(weight), bits, block)
    codes, scales = plainly(weight, bits, block)
    np.testing.assert_array_equal(ours.codes, codes)
    np.testing.assert_array_equal(ours.scales, scales)
    np.testing.assert_array_equal(sliced.codes, codes)
    np.testing.assert_array_equal(sliced.scales, scales)


def test_the_low_nibble_holds_the_even_element() -> None:
    codes = np.array([[-8, 7, 0, 1] * 8], np.int8)
    blob = pack_blob(codes, 4, 32)
    assert blob.shape == (1, 1, 16)
    assert list(blob[0, 0, :2]) == [0 | 15 << 4, 8 | 9 << 4]
    assert list(pack_blob(codes, 8, 32)[0, 0, :4]) == [120, 135, 128, 129]
