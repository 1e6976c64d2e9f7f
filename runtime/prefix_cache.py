"""What the caches of the slots hold besides running sequences: prefixes for later prompts."""

from __future__ import annotations

from collections.abc import Mapping

from edgellama.runtime.prefix import SHORTEST, Held, shared_prefix
from edgellama.runtime.prefix_store import PrefixStore
from edgellama.runtime.step import CacheCopy, PrefixDrop, SlotCopy

_NOTHING = Held()


class PrefixCache:
    """Remembers what free slots still hold, so that a prompt computes only what is new in it.

    Token by token and exact: a prompt takes the longest prefix that any slot holds under its salt,
    a running one included, by staying in that slot or by a copy. What a slot held is moved to the
    free slot that was used longest ago before something else is written over it; what no slot has
    room for goes to `store`, and a prompt that finds most of itself there gets it from there.
    Copies are to be made in their order, before the next step's rows. Deterministic; knows no
    cache, only tokens.
    """

    def __init__(self, slots: int, store: PrefixStore | None = None) -> None:
        self._store = store or PrefixStore()
        self._free: dict[int, Held] = dict.fromkeys(range(slots), _NOTHING)
        self._clock = 0

    def length(self, slot: int) -> int:
        """Positions that a free slot holds."""
        return len(self._free[slot].tokens)

    def lengths(self, running: tuple[int, ...]) -> tuple[int, ...]:
        """Return the positions that every slot holds; `running` has those of the slots in use."""
        if not any(held.tokens for held in self._free.values()):
            return running
        return tuple(
            len(self._free[slot].tokens) if slot in self._free else length
            for slot, length in enumerate(running)
        )

    def enter(
        self, slot: int, prompt: tuple[int, ...], salt: str, running: Mapping[int, Held]
    ) -> tuple[int, list[CacheCopy]]:
        """Take a free slot for a prompt; returns how many of its tokens need not be computed, and
        the copies that bring them there.

        `running` says what the slots in use hold. The prompt's last token is always computed: its
        logits are wanted.
        """
        source, shared = slot, 0
        begin, wanted = prompt[:SHORTEST], prompt[:-1]
        for other, held in {**self._free, **running}.items():
            if held.salt == salt and held.tokens[:SHORTEST] == begin:
                common = shared_prefix(held.tokens, wanted)
                if common > shared or (common == shared and other == slot):
                    source, shared = other, common
        if shared < SHORTEST:
            source, shared = slot, 0
        entry, stored = self._store.find(wanted, salt)
        if stored > shared:
            source, shared = slot, stored
        else:
            entry = None
        kept = shared if source == slot and entry is None else 0
        copies = self._save(slot, kept, source, entry)
        if entry is not None:
            copies.append(self._store.restore(entry, slot, shared))
        elif source != slot:
            copies.append(SlotCopy(source, slot, shared))
            self._used(source, shared)
        del self._free[slot]
        return shared, copies

    def move(self, source: int, target: int, length: int) -> list[CacheCopy]:
        """Let a running sequence of `length` positions go on in the free slot `target`."""
        copies = self._save(target, 0, target)
        copies.append(SlotCopy(source, target, length))
        del self._free[target]
        self._free[source] = _NOTHING
        return copies

    def leave(self, slot: int, tokens: tuple[int, ...], salt: str) -> None:
        """Give a slot back that holds `tokens`."""
        assert slot not in self._free, f"slot {slot} is freed twice"
        self._clock += 1
        held = Held(tokens, salt, self._clock)
        self._free[slot] = held if len(tokens) >= SHORTEST else _NOTHING

    def clear_below(self, slot: int) -> list[CacheCopy]:
        """Empty the free slots below `slot`, saving what they hold where there is room."""
        copies: list[CacheCopy] = []
        for low in sorted(s for s, held in self._free.items() if s < slot and held.tokens):
            copies += self._save(low, 0, low, above=slot)
            self._free[low] = _NOTHING
        return copies

    def forget(self) -> list[PrefixDrop]:
        """Forget what the free slots and the store hold, where their caches may have changed."""
        self._free = dict.fromkeys(self._free, _NOTHING)
        return self._store.forget()

    def _save(
        self, slot: int, kept: int, source: int, spared: int | None = None, above: int = -1
    ) -> list[CacheCopy]:
        """Move what a slot holds where more than its first `kept` tokens would be lost.

        Neither slot `source` nor entry `spared` of the store makes room for it.
        """
        held = self._free[slot]
        if len(held.tokens) - kept < SHORTEST:
            return []
        others = [s for s in self._free if s not in (slot, source) and s > above]
        oldest = min(others, key=lambda s: (self._free[s].stamp, s), default=None)
        if oldest is None or self._free[oldest].stamp > held.stamp:
            return [*self._store.save(slot, held, spared)]
        lost = self._store.save(oldest, self._free[oldest], spared)
        self._free[oldest] = held
        return [*lost, SlotCopy(slot, oldest, len(held.tokens))]

    def _used(self, source: int, shared: int) -> None:
        """Note that the first `shared` tokens of a slot are in another now."""
        held = self._free.get(source)
        if held is None:
            return  # it runs
        self._clock += 1
        # What was taken as a whole is there once more.
        whole = shared == len(held.tokens)
        self._free[source] = _NOTHING if whole else Held(held.tokens, held.salt, self._clock)
