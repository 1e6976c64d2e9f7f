"""Which sequence is in which slot, what the free slots keep, and what has to be copied for that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgellama.runtime.compaction import choose_move
from edgellama.runtime.prefix import SHORTEST, Held
from edgellama.runtime.prefix_cache import PrefixCache
from edgellama.runtime.prefix_store import PrefixStore
from edgellama.runtime.sequence import Sequence
from edgellama.runtime.slots import SlotPool
from edgellama.runtime.step import CacheCopy, PrefixDrop


class SlotTable:
    """Puts sequences into slots, each behind the longest prefix of it that some slot or `store`
    holds, and collects the copies that the next step begins with."""

    def __init__(self, slots: int, store: PrefixStore) -> None:
        self.store = store
        self._pool = SlotPool(slots)
        self._prefixes = PrefixCache(slots, store)
        self._by_slot: list[Sequence | None] = [None] * slots
        self._copies: list[CacheCopy] = []  # for the next step

    @property
    def slots(self) -> int:
        """Slots in all."""
        return self._pool.slots

    @property
    def num_free(self) -> int:
        """Slots without a sequence."""
        return self._pool.num_free

    def __iter__(self) -> Iterator[Sequence]:
        """Iterate over the sequences by slot."""
        return iter([sequence for sequence in self._by_slot if sequence is not None])

    def at(self, slot: int) -> Sequence:
        """Return the sequence of a slot in use."""
        sequence = self._by_slot[slot]
        assert sequence is not None, f"slot {slot} is free"
        return sequence

    def enter(self, sequence: Sequence, tokens: tuple[int, ...]) -> int:
        """Give a free slot to a sequence of `tokens`; returns how many of these it holds then.

        The last of them is never held.
        """
        slot = self._pool.allocate()
        running = {
            each.slot: Held(each.held, each.salt)
            for each in self
            if each.slot is not None and _may_share(each, sequence)
        }
        cached, copies = self._prefixes.enter(slot, tokens, sequence.salt, running)
        self._copies += copies
        self._by_slot[slot], sequence.slot = sequence, slot
        self.advance(sequence, cached)
        return cached

    def advance(self, sequence: Sequence, tokens: int) -> None:
        """Record that the cache grew: `[0, computed)` becomes `[0, computed + tokens)`."""
        assert sequence.slot is not None
        self._pool.extend(sequence.slot, tokens)
        sequence.computed += tokens

    def leave(self, sequence: Sequence) -> None:
        """Take the slot of a sequence back; it keeps what it holds for others."""
        assert sequence.slot is not None
        self._by_slot[sequence.slot] = None
        self._prefixes.leave(sequence.slot, sequence.held, sequence.salt)
        self._pool.free(sequence.slot)
        sequence.slot = None

    def close_gap(self, rows: list[Sequence]) -> None:
        """Close a gap between sequences, by slot, by moving one of them, where that pays."""
        sequence = choose_move(rows, self._pool.lowest_free) if self.num_free else None
        if sequence is None or sequence.slot is None:
            return
        old, new = sequence.slot, self._pool.allocate()
        self._copies += self._prefixes.move(old, new, sequence.computed)
        self._pool.extend(new, sequence.computed)
        self._pool.free(old)
        self._by_slot[old], self._by_slot[new] = None, sequence
        sequence.slot = new

    def begin_step(self, last_row: int | None) -> tuple[tuple[int, ...], tuple[CacheCopy, ...]]:
        """Return `lengths` and `copies` of a step whose last row is in a slot, None without rows.

        An idle slot below takes part, and the more it holds the longer; so it is emptied.
        """
        if last_row is not None:
            self._copies += self._prefixes.clear_below(last_row)
        copies = tuple(self._copies)
        self._copies.clear()
        return self._prefixes.lengths(self._pool.lengths), copies

    def forget(self, begun: Iterable[CacheCopy]) -> None:
        """Forget what free slots and the store hold; of the copies of a step that was begun, and of
        those for the next, nothing may have happened."""
        # An entry that is dropped twice is freed once.
        pending = (*begun, *self._copies)
        drops = [copy for copy in pending if isinstance(copy, PrefixDrop)]
        self._copies = [*drops, *self._prefixes.forget()]

    def check(self, capacity: int) -> None:
        """Check that slots and sequences agree."""
        self._pool.check()
        self.store.check()
        assert sum(1 for _ in self) == self.slots - self.num_free
        for slot, sequence in enumerate(self._by_slot):
            length = self._pool.lengths[slot]
            assert length < capacity
            assert sequence is None or (sequence.slot, sequence.computed) == (slot, length)
            assert sequence is not None or self._prefixes.length(slot) < capacity


def _may_share(running: Sequence, entering: Sequence) -> bool:
    """Whether it is worth collecting what a running sequence holds: its prompt begins the same."""
    begin = running.prompt[:SHORTEST]
    return running.computed >= SHORTEST and begin == entering.prompt[: len(begin)]
