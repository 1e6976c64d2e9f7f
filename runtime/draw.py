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


def draw(scores: Floats, rules: Sampling, share: float) -> int:
    """Choose a token from adjusted scores `[vocab]`: temperature, top-k, top-p, min-p, draw.

    `share` in [0, 1) says where the cumulative distribution of the kept tokens, in id order, is
    inverted. A score of -inf bans its token; ValueError when all are banned.
    """
    top = int(scores.argmax())
    if scores[top] == -np.inf:
        raise ValueError("every token is banned by stop.min_new_tokens, bad words and the guide")
    if rules.temperature == 0.0 or rules.top_k == 1:
        return top
    # 1e30 is greedy at any spacing of float32 logits and keeps 0 * scale a number.
    scale = np.float32(min(1.0 / rules.temperature, 1e30))
    peak = scores[top]

    def weights(values: Floats) -> Floats:
        with np.errstate(over="ignore", under="ignore"):
            result: Floats = np.exp((values - peak) * scale)
        return result

    ids: Ids | None = None  # None: the whole vocabulary
    if 0 < rules.top_k < len(scores):
        ids = largest(scores, rules.top_k)
        kept = weights(scores[ids])
        if rules.top_p < 1.0:
            size = _nucleus(kept, rules.top_p * float(kept.sum(dtype=np.float64)))
            ids, kept = ids[:size], kept[:size]
    else:
        kept = weights(scores)
        if rules.top_p < 1.0:
            ids = _top_p(scores, kept, rules.top_p)
            kept = kept[ids]
    if rules.min_p > 0.0:
        # The peak's weight is 1, so a weight is already the share of the largest probability.
        inside = np.flatnonzero(kept >= rules.min_p)
        ids, kept = inside if ids is None else ids[inside], kept[inside]
    if ids is not None:
        order = np.argsort(ids)
        ids, kept = ids[order], kept[order]
    place = _invert(kept, share)
    return place if ids is None else int(ids[place])


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


def _top_p(scores: Floats, every: Floats, top_p: float) -> Ids:
    """Return the ids of the nucleus of weights `every [vocab]`, in any order.

    A trained model's nucleus lies among few tokens. A wide one is found by mass per bin of weight;
    only the bin in which the mass is reached is sorted.
    """
    total = float(every.sum(dtype=np.float64))
    ids = largest(scores, min(_TOP_P_START, len(scores)))
    size = _nucleus(every[ids], top_p * total)
    if size < len(ids) or len(ids) == len(scores):
        return ids[:size]
    with np.errstate(divide="ignore"):  # a weight of 0 lies infinitely deep
        depth = np.log(every) * np.float32(-_BINS_PER_NAT)
    bins = np.minimum(depth, np.float32(_BINS - 1)).astype(np.int64)
    reached = np.cumsum(np.bincount(bins, weights=every, minlength=_BINS))
    edge = min(int(np.searchsorted(reached, top_p * total, "left")), _BINS - 1)
    above = np.flatnonzero(bins < edge)
    at = np.flatnonzero(bins == edge)
    at = at[np.argsort(-scores[at], kind="stable")]
    size = _nucleus(every[at], top_p * total - (reached[edge - 1] if edge else 0.0))
    return np.concatenate([above, at[:size]])
