"""Which running sequence to move so that the rows of a step lie closer together."""

from __future__ import annotations

from collections.abc import Iterable

from edgellama.runtime.sequence import Sequence

# Tokens that a sequence may still put out for a move to be worth its copy.
_LEAST_LEFT = 16


def choose_move(decoding: Iterable[Sequence], free: int) -> Sequence | None:
    """Return the sequence to move to the slot `free`; None where rows would not lie closer.

    A backend computes the range of slots between the first and the last row, idle ones included,
    so a gap costs every step what a row does, and closing it one copy of a cache.
    """
    by_slot = sorted((each for each in decoding), key=_slot)
    if len(by_slot) < 2:
        return None  # a row alone has no gap
    *others, last = by_slot
    slots = [_slot(each) for each in others]
    before = _slot(last) - slots[0]
    after = max(*slots, free) - min(*slots, free)
    left = last.max_new_tokens - len(last.output)
    return last if after < before and left >= _LEAST_LEFT else None


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot
