"""Find the nucleus of a row: the largest weights that reach a share of all (top-p).

Nucleus sampling, arXiv:1904.09751 section 3.1; equal weights rank by score, equal scores by id. A
trained model's nucleus is mostly told by the few weights near its peak, a flat one's by a sample of
all. Neither is trusted: where they cannot tell, the row is sorted as far as is needed.
"""

from __future__ import annotations

import math

import numpy as np

from edgellama.runtime.largest import largest
from edgellama.runtime.weights import Floats, Ids, Room, near_peak, weigh

_START = 1024  # candidates that hold a narrow nucleus nearly always
_LIGHT = 64.0  # no weight is above 1, and a wide nucleus has many: a lighter one is tried as narrow
# Weights below exp(-_NEAR), of 128,256 tokens, are 0.0003 of the peak's at most.
_NEAR = 20.0
# What rounding of scores and exponentials may add to that bound, and sums to a share.
_ROUNDED, _SUMMED = 1.001, 1e-9
# Weights that tell where a wide nucleus ends, and how far off that may be: four standard deviations
# of the share that lies above.
_SAMPLE, _MARGIN = 4096, 128
_ALIKE = 0.1  # by how much the sum that the sample tells may differ from the true one


def nucleus_size(falling: Floats, mass: float) -> int:
    """Return how many of the falling weights reach `mass`, at least one.

    A result of `len(falling)` may mean that even all of them fall short.
    """
    reached = np.cumsum(falling, dtype=np.float64)
    return min(int(np.searchsorted(reached, mass, "left")) + 1, len(falling))


def nucleus(
    scores: Floats, peak: np.float32, scale: np.float32, top_p: float, room: Room
) -> tuple[Ids | None, Floats]:
    """Return the rising ids and the weights of the nucleus of scores `[vocab]`.

    Ids None: the weights are those of all tokens, 0 outside the nucleus.
    """
    near = _near_nucleus(scores, peak, scale, top_p, room)
    if near is not None:
        return near
    every = weigh(scores, peak, scale, room)
    whole = float(every.sum(dtype=np.float64))
    mass = top_p * whole
    few = min(_START, len(scores))
    bracket = None if few == len(scores) or mass <= _LIGHT else _bracket(every, top_p, whole)
    # No weight is above 1: of more mass than candidates, these fall short together.
    if bracket is None or (bracket[1] == np.inf and mass <= few):
        ids = largest(scores, few)
        size = nucleus_size(every[ids], mass)
        if size < few or few == len(scores):
            ids = np.sort(ids[:size])
            return ids, every[ids]
    _keep_wide(scores, mass, bracket or _bracket(every, top_p, whole), room)
    return None, every


def _near_nucleus(
    scores: Floats, peak: np.float32, scale: np.float32, top_p: float, room: Room
) -> tuple[Ids, Floats] | None:
    """Return rising ids and weights of the nucleus where those near the peak tell it for certain.

    The rest weighs between nothing and a bound; either must give the same nucleus.
    """
    near = near_peak(scores, peak, scale, _NEAR, room)
    if near is None:
        return None
    close = scores[near]
    weights = weigh(close, peak, scale, room)
    found = float(weights.sum(dtype=np.float64))
    rest = (len(scores) - len(near)) * math.exp(-_NEAR) * _ROUNDED
    order = largest(close, min(_START, len(close)))
    reached = np.cumsum(weights[order], dtype=np.float64)
    bounds = top_p * found * (1.0 - _SUMMED), top_p * (found + rest) * (1.0 + _SUMMED)
    low, high = (int(each) for each in np.searchsorted(reached, bounds, "left"))
    if low != high or high == len(reached):
        return None
    inside = np.sort(order[: high + 1])
    return near[inside], weights[inside]


def _keep_wide(
    scores: Floats, mass: float, bracket: tuple[np.float32, np.float32], room: Room
) -> None:
    """Set the weights `[vocab]` in `room` outside the nucleus, of `mass`, to 0.

    It is likely to end between the two weights of `bracket`; only those are sorted.
    """
    low, high = bracket
    every, inside = room.weights, room.inside
    np.greater(every, high, out=inside)
    np.multiply(every, inside, out=room.certain)
    missing = mass - float(room.certain.sum(dtype=np.float64))
    at = np.flatnonzero(np.greater(every, low, out=room.above) & ~inside)
    falling = np.sort(every[at])[::-1]
    if missing <= 0.0 or missing > float(falling.sum(dtype=np.float64)):  # the sample misled
        at, missing = np.flatnonzero(every > 0.0), mass
        falling = np.sort(every[at])[::-1]
        inside[:] = False
    size = nucleus_size(falling, missing)
    least = falling[size - 1]
    weights = every[at]
    equal = at[weights == least]  # of these the greatest scores, of equal ones the lowest ids
    equal = equal[np.argsort(-scores[equal], kind="stable")]
    more = size - int(np.count_nonzero(weights > least))
    inside[at[weights > least]] = True
    inside[equal[:more]] = True
    np.multiply(every, inside, out=every)


def _bracket(weights: Floats, top_p: float, whole: float) -> tuple[np.float32, np.float32]:
    """Return two weights between which the nucleus is likely to end, -1 and inf for no bound.

    `whole` is the sum of all weights. A sample that tells another has missed the heavy ones.
    """
    step = max(1, len(weights) // _SAMPLE)
    falling = np.sort(weights[::step])[::-1]
    reached = np.cumsum(falling, dtype=np.float64)
    low, high = np.float32(-1.0), np.float32(np.inf)
    if abs(reached[-1] * len(weights) / len(falling) - whole) > _ALIKE * whole:
        return low, high
    end = int(np.searchsorted(reached, top_p * reached[-1], "left"))
    first, last = end - _MARGIN, end + _MARGIN
    return (
        falling[last] if last < len(falling) else low,
        falling[first] if first >= 0 else high,
    )
