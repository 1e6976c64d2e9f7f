"""Which prefixes are kept in the memory of the host once no slot has room for them."""

from __future__ import annotations

from edgellama.runtime.prefix import SHORTEST, Held, shared_prefix
from edgellama.runtime.step import PrefixDrop, PrefixRestore, PrefixSave


class PrefixStore:
    """Decides what is saved, restored and dropped; knows no cache, only tokens. Deterministic.

    The keys and values of all entries together never take more than `budget_bytes`: the one that
    was saved or restored longest ago leaves first. Of one salt no entry begins another: a prefix
    that is there already is not saved again, which counts as if it were, and a longer one replaces
    those that it begins with. A budget of 0 keeps nothing.
    """

    def __init__(self, budget_bytes: int = 0, token_bytes: int = 1) -> None:
        self.budget_bytes = budget_bytes
        self.restored_tokens = 0  # since it was made
        self._token_bytes = token_bytes
        self._room = budget_bytes // token_bytes  # tokens
        self._entries: dict[int, Held] = {}  # by number, the one used longest ago first
        self._tokens = 0
        self._next = 0

    @property
    def bytes(self) -> int:
        """Bytes of the keys and values that are kept."""
        return self._tokens * self._token_bytes

    def find(self, wanted: tuple[int, ...], salt: str) -> tuple[int | None, int]:
        """Return the entry that has most of the beginning of `wanted`, and how many tokens.

        Of equal ones it is that used last; None and 0 where none has SHORTEST tokens of it.
        """
        found, shared, begin = None, SHORTEST, wanted[:SHORTEST]
        for number, entry in self._entries.items():
            if entry.salt == salt and entry.tokens[:SHORTEST] == begin:
                common = shared_prefix(entry.tokens, wanted)
                if common >= shared:
                    found, shared = number, common
        return found, 0 if found is None else shared

    def save(
        self, slot: int, held: Held, spared: int | None = None
    ) -> list[PrefixSave | PrefixDrop]:
        """Return what keeps the prefix that a slot holds and that is to be overwritten there.

        The entry `spared` is not dropped for it.
        """
        length = len(held.tokens)
        if not SHORTEST <= length <= self._room:
            return []
        within: list[int] = []
        known, begin = None, held.tokens[:SHORTEST]
        for number, entry in self._entries.items():
            if entry.salt == held.salt and entry.tokens[:SHORTEST] == begin:
                common = shared_prefix(entry.tokens, held.tokens)
                if common == length:
                    known = number
                elif common == len(entry.tokens):
                    within.append(number)
        if known is not None:
            self._touch(known)
            return []
        room = self._room - self._tokens + sum(len(self._entries[n].tokens) for n in within)
        leaving = []
        for number, entry in self._entries.items():
            if room >= length:
                break
            if number not in within and number != spared:
                leaving.append(number)
                room += len(entry.tokens)
        if room < length:
            return []
        assert spared not in within, f"entry {spared} is restored where the longer one is at hand"
        drops = [self._drop(number) for number in (*within, *leaving)]
        self._next += 1
        self._entries[self._next] = held
        self._tokens += length
        return [*drops, PrefixSave(slot, self._next, length)]

    def restore(self, number: int, slot: int, length: int) -> PrefixRestore:
        """Return what brings the first `length` tokens of an entry, which stays, into a slot."""
        assert length <= len(self._entries[number].tokens), (number, length)
        self._touch(number)
        self.restored_tokens += length
        return PrefixRestore(number, slot, length)

    def forget(self) -> list[PrefixDrop]:
        """Forget every entry, where what was saved may not be what it should be."""
        return [self._drop(number) for number in list(self._entries)]

    def check(self) -> None:
        """Check the budget, and that no entry begins another."""
        held = list(self._entries.values())
        assert self._tokens == sum(len(entry.tokens) for entry in held)
        assert self.bytes <= self.budget_bytes
        for entry in held:
            assert len(entry.tokens) >= SHORTEST
            for other in held:
                begins = other.tokens[: len(entry.tokens)] == entry.tokens
                assert entry is other or entry.salt != other.salt or not begins

    def _touch(self, number: int) -> None:
        self._entries[number] = self._entries.pop(number)

    def _drop(self, number: int) -> PrefixDrop:
        self._tokens -= len(self._entries.pop(number).tokens)
        return PrefixDrop(number)
