"""What the caches of the slots hold besides running sequences: prefixes for later prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgellama.runtime.step import SlotCopy

# Tokens of the shortest prefix that is worth the calls of a copy.
SHORTEST = 16


@dataclass(frozen=True)
class Held:
    """Tokens whose positions `[0, len(tokens))` a slot's cache holds, for prompts of that salt.

    The greater `stamp` is, the later they were used.
    """

    tokens: tuple[int, ...] = ()
    salt: str = ""
    stamp: int = 0


_NOTHING = Held()


class PrefixCache:
    """Remembers what free slots still hold, so that a prompt computes only what is new in it.

    Token by token and exact: a prompt takes the longest prefix that any slot holds under its salt,
    a running one included, by staying in that slot or by a copy. What a slot held is moved to the
    free slot that was used longest ago before something else is written over it. Copies are to be
    made in their order, before the next step's rows. Deterministic; knows no cache, only tokens.
    """

    def __init__(self, slots: int) -> None:
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
    ) -> tuple[int, list[SlotCopy]]:
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
        kept = shared if source == slot else 0
        copies = self._save(slot, kept, source)
        if source != slot:
            copies.append(SlotCopy(source, slot, shared))
            self._used(source, shared)
        del self._free[slot]
        return shared, copies

    def move(self, source: int, target: int, length: int) -> list[SlotCopy]:
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

    def clear_below(self, slot: int) -> list[SlotCopy]:
        """Empty the free slots below `slot`, saving what they hold where there is room above."""
        copies = []
        for low in sorted(s for s, held in self._free.items() if s < slot and held.tokens):
            copies += self._save(low, 0, low, above=slot)
            self._free[low] = _NOTHING
        return copies

    def forget(self) -> None:
        """Forget what the free slots hold, where their caches may have changed."""
        self._free = dict.fromkeys(self._free, _NOTHING)

    def _save(self, slot: int, kept: int, source: int, above: int = -1) -> list[SlotCopy]:
        """Move what a slot holds where more than its first `kept` tokens would be lost."""
        held = self._free[slot]
        if len(held.tokens) - kept < SHORTEST:
            return []
        others = [s for s in self._free if s not in (slot, source) and s > above]
        oldest = min(others, key=lambda s: (self._free[s].stamp, s), default=None)
        if oldest is None or self._free[oldest].stamp > held.stamp:
            return []
        self._free[oldest] = held
        return [SlotCopy(slot, oldest, len(held.tokens))]

    def _used(self, source: int, shared: int) -> None:
        """Note that the first `shared` tokens of a slot are in another now."""
        held = self._free.get(source)
        if held is None:
            return  # it runs
        self._clock += 1
        # What was taken as a whole is there once more.
        whole = shared == len(held.tokens)
        self._free[source] = _NOTHING if whole else Held(held.tokens, held.salt, self._clock)


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
