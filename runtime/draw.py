"""Choose a token from one row of scores: temperature, top-k, top-p, min-p, inverse distribution."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgellama.runtime.largest import largest
from edgellama.runtime.nucleus import nucleus, nucleus_size
from edgellama.runtime.request import Sampling
from edgellama.runtime.weights import Floats, Ids, Room, near_peak, weigh

_BLOCK = 256
_MIN_P_MARGIN = 0.001  # so that rounding leaves no weight out


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
    ids, kept = _keep(scores, scores[top], scale, rules, room)
    if rules.min_p > 0.0:
        # The peak's weight is 1, so a weight is already the share of the largest probability.
        inside = np.flatnonzero(kept >= rules.min_p)
        ids, kept = inside if ids is None else ids[inside], kept[inside]
    place = _invert(kept, share)
    return place if ids is None else int(ids[place])


def _keep(
    scores: Floats, peak: np.float32, scale: np.float32, rules: Sampling, room: Room
) -> tuple[Ids | None, Floats]:
    """Return the rising ids that top-k and top-p leave, and their weights; ids None: all tokens."""
    ids: Ids | None = None
    if 0 < rules.top_k < len(scores):
        ids = largest(scores, rules.top_k)
        kept = weigh(scores[ids], peak, scale, room)
        if rules.top_p < 1.0:
            size = nucleus_size(kept, rules.top_p * float(kept.sum(dtype=np.float64)))
            ids, kept = ids[:size], kept[:size]
        order = np.argsort(ids)
        return ids[order], kept[order]
    if rules.top_p < 1.0:
        return nucleus(scores, peak, scale, rules.top_p, room)
    if rules.min_p > 0.0:  # what it leaves and perhaps a few more
        ids = near_peak(scores, peak, scale, _MIN_P_MARGIN - math.log(rules.min_p), room)
    return ids, weigh(scores if ids is None else scores[ids], peak, scale, room)


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
