"""A prefix that is remembered, and how much two prompts have in common; standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Tokens of the shortest prefix that is worth the calls of a copy.
SHORTEST = 16


@dataclass(frozen=True)
class Held:
    """Tokens whose positions `[0, len(tokens))` a cache holds, for prompts of that salt.

    The greater `stamp` is, the later they were used.
    """

    tokens: tuple[int, ...] = ()
    salt: str = ""
    stamp: int = 0


def shared_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with in common."""
    low, high = 0, min(len(left), len(right))
    while low < high:  # bisection: comparing slices is faster than a loop over tokens
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
