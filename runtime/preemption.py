"""Which running sequence gives its slot to one of higher priority."""

from __future__ import annotations

from collections.abc import Iterable

from edgellama.runtime.sequence import Sequence

MAX_PREEMPTIONS = 2  # of one sequence


def choose_victim(waiting: Sequence, running: Iterable[Sequence]) -> Sequence | None:
    """Return the running sequence of the lowest priority, of such the one that arrived last.

    None when none has a lower priority than `waiting` and lost its slot less than MAX_PREEMPTIONS
    times.
    """
    victims = [
        sequence
        for sequence in running
        if sequence.priority < waiting.priority and sequence.preempted < MAX_PREEMPTIONS
    ]
    return min(victims, key=lambda each: (each.priority, -each.arrival), default=None)
