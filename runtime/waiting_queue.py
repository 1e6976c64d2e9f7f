"""The sequences without a slot, and whose turn it is."""

from __future__ import annotations

from collections.abc import Iterator

from edgellama.runtime.fair_share import FairShare
from edgellama.runtime.sequence import Sequence

# Later arrivals that may go past a waiting sequence, whatever their priority and tenant.
MAX_OVERTAKEN = 64


class WaitingQueue:
    """Bounded overtaking: by priority, then the tenant served least, then by arrival.

    A sequence that MAX_OVERTAKEN later ones went past is before all others, the oldest such first;
    so none waits for more than those and the ones that were there before it. Of the same priority
    the further outputs of a request go first that has begun: its prompt is in a slot now.
    """

    def __init__(self, shares: FairShare) -> None:
        self._shares = shares
        self._waiting: dict[str, Sequence] = {}  # by arrival
        self._arrivals = 0
        self._ordered = 0  # that have a priority or a tenant

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting.values())

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.number(sequence)
        self._waiting[sequence.id] = sequence
        self._ordered += _is_ordered(sequence)

    def number(self, sequence: Sequence) -> None:
        """Note the arrival of a sequence that is not to be queued yet."""
        sequence.arrival = self._arrivals
        self._arrivals += 1

    def put_back(self, sequence: Sequence) -> None:
        """Queue a sequence at the place of its arrival."""
        all_of_them = sorted((sequence, *self), key=lambda each: each.arrival)
        self._waiting = {each.id: each for each in all_of_them}
        self._ordered += _is_ordered(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence that waits."""
        del self._waiting[sequence.id]
        self._ordered -= _is_ordered(sequence)

    def first(self) -> Sequence:
        """Return whose turn it is, of one at least."""
        if not self._ordered:
            return next(iter(self))
        return min(self, key=self._turn)

    def pop(self) -> Sequence:
        """Take whose turn it is, of one at least."""
        first = self.first()
        self.remove(first)
        first.overtaken = 0
        for sequence in self:
            if sequence.arrival > first.arrival:
                break
            sequence.overtaken += 1
        return first

    def _turn(self, sequence: Sequence) -> tuple[int, ...]:
        if sequence.overtaken >= MAX_OVERTAKEN:
            return (0, sequence.arrival)
        served = self._shares.served(sequence.tenant)
        begins = int(sequence.leader is None)
        return (1, -sequence.priority, begins, served, sequence.arrival)


def _is_ordered(sequence: Sequence) -> bool:
    return sequence.priority != 0 or sequence.tenant != ""
