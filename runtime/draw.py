"""Choose a token from one row of scores: temperature, top-k, top-p, min-p, inverse distribution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellama.runtime.largest import largest
from edgellama.runtime.request import Sampling

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_TOP_P_START = 1024  # candidates that hold the nucleus of a trained model nearly always
_BINS = 2048
_BINS_PER_NAT = 64  # 32 nats in all; whatever lies deeper shares the last bin
_BLOCK = 256


class Room:
    """Arrays `[vocab]` for the steps of a draw, used again by the next.

    New ones of this size are given back to the system as soon as they are freed, and taking their
    pages again costs several times the arithmetic.
    """

    def __init__(self, vocab_size: int) -> None:
        self.exponents: Floats = np.empty(vocab_size, np.float32)
        self.weights: Floats = np.empty(vocab_size, np.float32)
        self.depth: Floats = np.empty(vocab_size, np.float32)
        self.bins: npt.NDArray[np.intp] = np.empty(vocab_size, np.intp)
        self.masses = np.empty(vocab_size, np.float64)
        self.inside = np.empty(vocab_size, np.bool_)


def draw(scores: Floats, rules: Sampling, share: float, room: Room) -> int:
    """Choose a token from adjusted scores `[vocab]`: temperature, top-k, top-p, min-p, draw.

    `share` in [0, 1) says where the cumulative distribution of the kept tokens, in id order, is
    inverted; `room` is for as many scores, and nothing of an earlier draw in it matters.
    A score of -inf bans its token; ValueError when all are banned.
    """
    top = int(scores.argmax())
    if scores[top] == -np.inf:
        raise ValueError("every token is banned by stop.min_new_tokens, bad words and the guide")
    if rules.temperature == 0.0 or rules.top_k == 1:
        return top
    # 1e30 is greedy at any spacing of float32 logits and keeps 0 * scale a number.
    scale = np.float32(min(1.0 / rules.temperature, 1e30))
    ids: Ids | None = None  # rising; None: the whole vocabulary
    if 0 < rules.top_k < len(scores):
        ids = largest(scores, rules.top_k)
        few = len(ids)
        kept = _weigh(scores[ids], scores[top], scale, room.exponents[:few], room.weights[:few])
        if rules.top_p < 1.0:
            size = _nucleus(kept, rules.top_p * float(kept.sum(dtype=np.float64)))
            ids, kept = ids[:size], kept[:size]
        order = np.argsort(ids)
        ids, kept = ids[order], kept[order]
    else:
        kept = _weigh(scores, scores[top], scale, room.exponents, room.weights)
        if rules.top_p < 1.0:
            ids = _top_p(scores, rules.top_p, room)
            kept = kept[ids]
    if rules.min_p > 0.0:
        # The peak's weight is 1, so a weight is already the share of the largest probability.
        inside = np.flatnonzero(kept >= rules.min_p)
        ids, kept = inside if ids is None else ids[inside], kept[inside]
    place = _invert(kept, share)
    return place if ids is None else int(ids[place])


def _weigh(
    scores: Floats, peak: np.float32, scale: np.float32, exponents: Floats, weights: Floats
) -> Floats:
    """Write and return the weights of the scores, 1 for the peak's, and write their logarithms."""
    with np.errstate(over="ignore", under="ignore"):
        np.subtract(scores, peak, out=exponents)
        np.multiply(exponents, scale, out=exponents)
        np.exp(exponents, out=weights)
    return weights


def _invert(weights: Floats, share: float) -> int:
    """Return where the running sum of `weights` first exceeds `share` of their sum.

    Two levels, sums of blocks and then one block: a running sum of 128,256 costs ten times more.
    """
    whole = len(weights) // _BLOCK * _BLOCK
    blocks = weights[:whole].reshape(-1, _BLOCK).sum(axis=1)
    reached = np.cumsum(np.append(blocks, weights[whole:].sum()), dtype=np.float64)
    target = share * reached[-1]
    block = _first_above(reached, target)
    start = block * _BLOCK
    inside = np.cumsum(weights[start : start + _BLOCK], dtype=np.float64)
    return start + _first_above(inside, target - (reached[block - 1] if block else 0.0))


def _first_above(reached: npt.NDArray[np.float64], target: float) -> int:
    """Return the first place of a running sum above `target`; the last that rises if none is.

    A target may be rounded up to the whole sum; an entry of weight 0 is never returned.
    """
    place = int(np.searchsorted(reached, target, "right"))
    return place if place < len(reached) else int(np.searchsorted(reached, reached[-1], "left"))


def _nucleus(falling: Floats, mass: float) -> int:
    """Return how many of the falling weights reach `mass`, at least one.

    A result of `len(falling)` may mean that even all of them fall short.
    """
    reached = np.cumsum(falling, dtype=np.float64)
    return min(int(np.searchsorted(reached, mass, "left")) + 1, len(falling))


def _top_p(scores: Floats, top_p: float, room: Room) -> Ids:
    """Return the rising ids of the nucleus of the weights `[vocab]` in `room`.

    A trained model's nucleus lies among few tokens. A wide one is found by mass per bin of weight;
    only the bin in which the mass is reached is sorted.
    """
    every = room.weights
    mass = top_p * float(every.sum(dtype=np.float64))
    few = min(_TOP_P_START, len(scores))
    if few == len(scores) or mass <= few:  # no weight is above 1: else they fall short together
        ids = largest(scores, few)
        size = _nucleus(every[ids], mass)
        if size < len(ids) or len(ids) == len(scores):
            return np.sort(ids[:size])
    bins, inside = room.bins, room.inside
    with np.errstate(over="ignore"):  # what is as deep as that lies in the last bin
        np.multiply(room.exponents, np.float32(-_BINS_PER_NAT), out=room.depth)
    np.minimum(room.depth, np.float32(_BINS - 1), out=room.depth)
    np.copyto(bins, room.depth, casting="unsafe")  # towards 0
    np.copyto(room.masses, every)
    reached = np.cumsum(np.bincount(bins, weights=room.masses, minlength=_BINS))
    edge = min(int(np.searchsorted(reached, mass, "left")), _BINS - 1)
    at = np.flatnonzero(np.equal(bins, edge, out=inside))
    at = at[np.argsort(-scores[at], kind="stable")]
    size = _nucleus(every[at], mass - (reached[edge - 1] if edge else 0.0))
    np.less(bins, edge, out=inside)
    inside[at[:size]] = True
    return np.flatnonzero(inside)
