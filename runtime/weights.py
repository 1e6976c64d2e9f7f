"""Weights of a row of scores: the exponentials of what it lies below its peak, by temperature."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_FEW = 4  # ids and weights of less than a quarter of a row are cheaper than all its weights


class Room:
    """Arrays `[vocab]` for the steps of a draw, used again by the next.

    New ones of this size are given back to the system as soon as they are freed, and taking their
    pages again costs several times the arithmetic.
    """

    def __init__(self, vocab_size: int) -> None:
        self.weights: Floats = np.empty(vocab_size, np.float32)
        self.certain: Floats = np.empty(vocab_size, np.float32)
        self.inside = np.empty(vocab_size, np.bool_)
        self.above = np.empty(vocab_size, np.bool_)


def weigh(scores: Floats, peak: np.float32, scale: np.float32, room: Room) -> Floats:
    """Return the weights of some or all scores, 1 for the peak's; they lie in `room`."""
    weights = room.weights[: len(scores)]
    with np.errstate(over="ignore", under="ignore"):
        np.subtract(scores, peak, out=weights)
        np.multiply(weights, scale, out=weights)
        np.exp(weights, out=weights)
    return weights


def near_peak(
    scores: Floats, peak: np.float32, scale: np.float32, distance: float, room: Room
) -> Ids | None:
    """Return the rising ids of weights of `exp(-distance)` and more; None where they are many.

    Rounding may leave out a weight that is a millionth above.
    """
    with np.errstate(over="ignore"):
        least = peak - np.float32(distance) / scale
    near = np.greater_equal(scores, least, out=room.inside)
    if np.count_nonzero(near) * _FEW > len(scores):
        return None
    return np.flatnonzero(near)
