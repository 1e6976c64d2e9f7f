"""Which measurements there is time to repeat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Key = TypeVar("Key")


def affordable(seconds: Mapping[Key, float], repeats: int, left: float) -> set[Key]:
    """Return what can be measured `repeats` times more within `left` seconds, the shortest first.

    `seconds` is what each took when it was measured once. The longest are left out, so that one
    slow system costs its own repeats and not those of all others.
    """
    found: set[Key] = set()
    for key, each in sorted(seconds.items(), key=lambda item: item[1]):
        left -= repeats * each
        if left < 0:
            break
        found.add(key)
    return found
