"""Which running sequence to move so that the rows of a step lie closer together."""

from __future__ import annotations

from edgellama.runtime.sequence import Sequence

# Tokens that a sequence may still put out for a move to be worth its copy.
_LEAST_LEFT = 16


def has_gap(rows: list[Sequence]) -> bool:
    """Whether a slot between those of the first and the last row, by slot, is of no row."""
    return bool(rows) and _slot(rows[-1]) - _slot(rows[0]) >= len(rows)


def choose_move(rows: list[Sequence], free: int) -> Sequence | None:
    """Return which of the rows, by slot, to move to the slot `free`; None where none pays.

    A backend computes the range of slots between the first and the last row, idle ones included,
    so a gap costs every step what a row does, and closing it one copy of a cache.
    """
    if len(rows) < 2:
        return None  # a row alone has no gap
    *others, last = rows
    first, highest = _slot(others[0]), _slot(others[-1])
    before = _slot(last) - first
    after = max(highest, free) - min(first, free)
    left = last.max_new_tokens - len(last.output)
    return last if after < before and left >= _LEAST_LEFT else None


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot
