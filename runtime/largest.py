"""Find the largest entries of a long row without sorting it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MIN_GROUPS = 2048
_GROUPS_PER_ENTRY = 4  # so that few groups hold two of the largest


def largest(values: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Return the ids of the `count` largest of `values [n]`, falling; equals by rising id.

    The `count`-th largest of the group maxima bounds the answer from below, because each of those
    groups holds an entry at least as large; so one pass of maxima and one comparison leave little
    more than `count` entries to sort.
    """
    assert 0 < count <= len(values), (count, len(values))
    groups = max(_MIN_GROUPS, _GROUPS_PER_ENTRY * count)
    depth = len(values) // groups
    if depth < 2:
        chosen = np.arange(len(values))
        if count < len(values):
            bound = np.partition(values, len(values) - count)[len(values) - count]
            chosen = np.flatnonzero(values >= bound)
    else:
        # Group g is every `groups`-th entry from g on: the maxima are whole-row operations.
        maxima = values[: depth * groups].reshape(depth, groups).max(axis=0)
        bound = np.partition(maxima, groups - count)[groups - count]
        chosen = np.flatnonzero(values >= bound)
    falling = np.argsort(-values[chosen], kind="stable")
    return chosen[falling[:count]]
