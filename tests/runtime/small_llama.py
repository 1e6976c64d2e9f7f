"""A small attention model: its weights, and its logits computed whole in numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2, 4, 2, 16, 40
HIDDEN, PACKED = HEADS * HEAD_DIM, (HEADS + 2 * KV_HEADS) * HEAD_DIM
SLOTS, CAPACITY, CHUNK = 4, 24, 8

Array = npt.NDArray[np.float32]


def make_weights() -> dict[str, Array]:
    rng = np.random.default_rng(7)

    def draw(*shape: int) -> Array:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    angles = np.arange(CAPACITY)[:, None] / 10000 ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    weights = {
        "embedding": draw(VOCAB, HIDDEN) * 4,
        "head": draw(HIDDEN, VOCAB),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
    }
    for layer in range(LAYERS):
        weights[f"qkv.{layer}"] = draw(HIDDEN, PACKED)
        weights[f"out.{layer}"] = draw(HIDDEN, HIDDEN)
    return weights


WEIGHTS = make_weights()


def rotate(x: Array, positions: npt.NDArray[np.int64]) -> Array:
    """Rotate the halves of `[tokens, heads, head_dim]`."""
    cos, sin = WEIGHTS["cos"][positions][:, None], WEIGHTS["sin"][positions][:, None]
    low, high = np.split(x, 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def expected_logits(tokens: list[int], weights: Mapping[str, Array] = WEIGHTS) -> Array:
    """Return `[len(tokens), vocab]` of one sequence computed whole."""
    count = len(tokens)
    positions = np.arange(count)
    hidden = weights["embedding"][tokens]
    for layer in range(LAYERS):
        packed = (hidden @ weights[f"qkv.{layer}"]).reshape(count, -1, HEAD_DIM)
        query = rotate(packed[:, :HEADS], positions)
        key = rotate(packed[:, HEADS : HEADS + KV_HEADS], positions)
        value = packed[:, HEADS + KV_HEADS :]
        key, value = (np.repeat(x, HEADS // KV_HEADS, axis=1) for x in (key, value))
        scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(HEAD_DIM)
        scores[:, np.triu(np.ones((count, count), bool), 1)] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", scores, value).reshape(count, HIDDEN)
        hidden = hidden + mixed @ weights[f"out.{layer}"]
    logits: Array = hidden @ weights["head"]
    return logits


def tokens(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).tolist()


def greedy(prompt: list[int], new: int) -> list[int]:
    """Continue a prompt by the sums in numpy, all of it computed anew for each token."""
    text = list(prompt)
    for _ in range(new):
        text.append(int(expected_logits(text)[-1].argmax()))
    return text[len(prompt) :]
