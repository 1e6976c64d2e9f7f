"""Choose a token from one row of scores: temperature, top-k, top-p, min-p, inverse distribution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellama.runtime.largest import largest
from edgellama.runtime.request import Sampling

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_TOP_P_START = 1024  # candidates that hold the nucleus of a trained model nearly always
# Weights that tell where a wide nucleus ends, and how far off that may be: four standard deviations
# of the share that lies above.
_SAMPLE, _MARGIN = 4096, 128
_BLOCK = 256


class Room:
    """Arrays `[vocab]` for the steps of a draw, used again by the next.

    New ones of this size are given back to the system as soon as they are freed, and taking their
    pages again costs several times the arithmetic.
    """

    def __init__(self, vocab_size: int) -> None:
        self.exponents: Floats = np.empty(vocab_size, np.float32)
        self.weights: Floats = np.empty(vocab_size, np.float32)
        self.certain: Floats = np.empty(vocab_size, np.float32)
        self.inside = np.empty(vocab_size, np.bool_)
        self.above = np.empty(vocab_size, np.bool_)


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
            kept = kept if ids is None else kept[ids]
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


def _top_p(scores: Floats, top_p: float, room: Room) -> Ids | None:
    """Return the rising ids of the nucleus of the weights `[vocab]` in `room`.

    A trained model's nucleus lies among few tokens. Of a wide one the weights outside are set to 0,
    and None is returned.
    """
    every = room.weights
    mass = top_p * float(every.sum(dtype=np.float64))
    few = min(_TOP_P_START, len(scores))
    if few == len(scores) or mass <= few:  # no weight is above 1: else they fall short together
        ids = largest(scores, few)
        size = _nucleus(every[ids], mass)
        if size < len(ids) or len(ids) == len(scores):
            return np.sort(ids[:size])
    _keep_wide(scores, top_p, mass, room)
    return None


def _keep_wide(scores: Floats, top_p: float, mass: float, room: Room) -> None:
    """Set the weights `[vocab]` in `room` outside the nucleus, of `mass`, to 0.

    A sample says between which weights it ends; only those are sorted.
    """
    every, inside = room.weights, room.inside
    low, high = _bracket(every, top_p)
    np.greater(every, high, out=inside)
    np.multiply(every, inside, out=room.certain)
    missing = mass - float(room.certain.sum(dtype=np.float64))
    at = np.flatnonzero(np.greater(every, low, out=room.above) & ~inside)
    falling = np.sort(every[at])[::-1]
    if missing <= 0.0 or missing > float(falling.sum(dtype=np.float64)):  # the sample misled
        at, missing = np.flatnonzero(every > 0.0), mass
        falling = np.sort(every[at])[::-1]
        inside[:] = False
    size = _nucleus(falling, missing)
    least = falling[size - 1]
    weights = every[at]
    equal = at[weights == least]  # of these the greatest scores, of equal ones the lowest ids
    equal = equal[np.argsort(-scores[equal], kind="stable")]
    more = size - int(np.count_nonzero(weights > least))
    inside[at[weights > least]] = True
    inside[equal[:more]] = True
    np.multiply(every, inside, out=every)


def _bracket(weights: Floats, top_p: float) -> tuple[np.float32, np.float32]:
    """Return two weights between which the nucleus is likely to end, -1 and inf for no bound."""
    falling = np.sort(weights[:: max(1, len(weights) // _SAMPLE)])[::-1]
    reached = np.cumsum(falling, dtype=np.float64)
    end = int(np.searchsorted(reached, top_p * reached[-1], "left"))
    first, last = end - _MARGIN, end + _MARGIN
    high = falling[first] if first >= 0 else np.float32(np.inf)
    low = falling[last] if last < len(falling) else np.float32(-1.0)
    return low, high
