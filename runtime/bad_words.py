"""Token sequences that an output never holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


class BadWords:
    """Says which tokens would complete a bad sequence, as one output grows.

    Only what was drawn counts: a sequence that begins in the prompt is not seen.
    """

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        self._always: set[int] = set()  # sequences of one token
        # The others by the token before their last, with what is in front of that.
        self._longer: dict[int, list[tuple[tuple[int, ...], int]]] = {}
        self._kept = 0  # drawn tokens that a sequence can reach back to
        for *begin, last in set(map(tuple, sequences)):
            if begin:
                self._longer.setdefault(begin[-1], []).append((tuple(begin), last))
                self._kept = max(self._kept, len(begin))
            else:
                self._always.add(last)
        self._drawn: tuple[int, ...] = ()

    def record(self, token: int) -> None:
        """Take one drawn token."""
        if self._kept:
            self._drawn = (*self._drawn, token)[-self._kept :]

    def banned(self, vocab_size: int) -> Ids:
        """Return the ids in `[0, vocab_size)` that cannot come next."""
        found = set(self._always)
        for begin, last in self._longer.get(self._drawn[-1], ()) if self._drawn else ():
            if self._drawn[-len(begin) :] == begin:
                found.add(last)
        return np.array([token for token in found if token < vocab_size], np.int64)
