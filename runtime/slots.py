"""Which slots of the KV pool are in use, and how much of each is valid."""

from __future__ import annotations

import heapq


class SlotPool:
    """Slots `[0, slots)`, each free or used; slot `s` holds valid positions `[0, lengths[s])`.

    The lowest free slot goes first, so that used slots stay near the front: a backend runs the
    smallest prefix `[0, n)` of the pool that holds all running slots.
    """

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError(f"slots is {slots}; it must be >= 1")
        self._free = list(range(slots))  # a heap; an ascending list is one
        self._used = [False] * slots
        self._lengths = [0] * slots

    @property
    def slots(self) -> int:
        """Slots in all."""
        return len(self._used)

    @property
    def num_free(self) -> int:
        """Slots that `allocate` can still hand out."""
        return len(self._free)

    @property
    def lowest_free(self) -> int:
        """The slot that `allocate` hands out next; IndexError when none is free."""
        return self._free[0]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Positions of every slot that its sequence has computed; 0 for a free one."""
        return tuple(self._lengths)

    def allocate(self) -> int:
        """Hand out the lowest free slot, empty; IndexError when none is free."""
        slot = heapq.heappop(self._free)
        self._used[slot] = True
        return slot

    def extend(self, slot: int, tokens: int) -> None:
        """Move the valid end of a used slot: `[0, length)` becomes `[0, length + tokens)`."""
        assert self._used[slot], f"slot {slot} is free"
        self._lengths[slot] += tokens

    def free(self, slot: int) -> None:
        """Take a slot back, empty; what its cache still holds is for the prefix cache to know."""
        assert self._used[slot], f"slot {slot} is freed twice"
        self._used[slot] = False
        self._lengths[slot] = 0
        heapq.heappush(self._free, slot)

    def check(self) -> None:
        """Re-add free and used: together they are `[0, slots)`, and free slots are empty."""
        used = [slot for slot, taken in enumerate(self._used) if taken]
        assert sorted(self._free + used) == list(range(self.slots)), (self._free, used)
        assert all(self._lengths[slot] == 0 for slot in self._free), self._lengths
