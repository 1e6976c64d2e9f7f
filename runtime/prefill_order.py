"""Which admitted prompt the next chunk is of."""

from __future__ import annotations

from collections.abc import Iterator

from edgellama.runtime.sequence import Sequence

# One chunk in this many goes to the prompt that was admitted first.
AGEING = 4


class PrefillOrder:
    """By priority, then the shortest remainder first; one chunk in AGEING goes to the oldest.

    Shortest first gives the least mean time to a first token; the chunks of the oldest see to it
    that a stream of short prompts delays a long one by no more than a factor of AGEING.
    """

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []  # by admission
        self._turns = 0  # chunks in a row that were not the oldest's

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Take a sequence that got a slot."""
        self._sequences.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence: all of it is computed, or it lost its slot."""
        if sequence is self._sequences[0]:
            self._turns = 0
        self._sequences.remove(sequence)

    def take(self) -> Sequence | None:
        """Return whose chunk is next and count it; None when no prompt is left."""
        if not self._sequences:
            return None
        oldest = self._sequences[0]
        aged = self._turns == AGEING - 1
        chosen = oldest if aged else min(self._sequences, key=_turn)  # of equals the oldest
        self._turns = 0 if chosen is oldest else self._turns + 1
        return chosen


def _turn(sequence: Sequence) -> tuple[int, int]:
    return (-sequence.priority, sequence.to_compute - sequence.computed)
