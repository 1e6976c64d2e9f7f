"""The store of prefixes beside a plain list: what it keeps, what leaves first, what it finds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgellama.runtime.prefix import SHORTEST, Held
from edgellama.runtime.prefix_store import PrefixStore
from edgellama.runtime.step import PrefixDrop, PrefixRestore, PrefixSave

A, B, C = (tuple(range(begin, begin + 40)) for begin in (100, 200, 300))


def test_what_was_saved_is_found_and_restored() -> None:
    store = PrefixStore(1000, 10)
    assert store.save(2, Held(A)) == [PrefixSave(2, 1, 40)]
    assert store.bytes == 400
    assert store.find((*A[:30], 1), "") == (1, 30)
    assert store.restore(1, 3, 30) == PrefixRestore(1, 3, 30)
    assert store.restored_tokens == 30 and store.bytes == 400


def test_few_tokens_are_neither_saved_nor_found() -> None:
    store = PrefixStore(1000, 10)
    assert store.save(0, Held(A[: SHORTEST - 1])) == []
    assert store.save(0, Held(A[:SHORTEST])) == [PrefixSave(0, 1, SHORTEST)]
    assert store.find(A[: SHORTEST - 1], "") == (None, 0)
    assert store.find(A, "") == (1, SHORTEST)


def test_salts_are_kept_apart() -> None:
    store = PrefixStore(1000, 10)
    store.save(0, Held(A, "one"))
    assert store.find(A, "two") == (None, 0)
    assert store.save(0, Held(A, "two")) == [PrefixSave(0, 2, 40)]
    assert store.find(A, "one") == (1, 40)


def test_no_prefix_is_kept_twice() -> None:
    store = PrefixStore(2000, 10)
    store.save(0, Held(A[:20]))
    store.save(0, Held(A[:30]))
    assert store.bytes == 300
    assert store.save(0, Held(A)) == [PrefixDrop(2), PrefixSave(0, 3, 40)]
    assert store.save(1, Held(A[:25])) == []
    other = (*A[:30], *B)
    assert store.save(0, Held(other)) == [PrefixSave(0, 4, 70)], "neither begins the other"
    assert store.save(0, Held(A, "salt")) == [PrefixSave(0, 5, 40)]


def test_the_longer_takes_the_place_of_the_shorter_within_the_budget() -> None:
    store = PrefixStore(80, 1)
    store.save(0, Held(B))
    store.save(0, Held(A[:30]))
    assert store.save(0, Held(A)) == [PrefixDrop(2), PrefixSave(0, 3, 40)]
    assert store.find(B, "") == (1, 40)


def test_the_prefix_used_longest_ago_leaves_first() -> None:
    store = PrefixStore(800 + 9, 10)
    store.save(0, Held(A))
    store.save(0, Held(B))
    store.restore(1, 0, 20)
    assert store.save(0, Held(C)) == [PrefixDrop(2), PrefixSave(0, 3, 40)]
    store.save(0, Held(A[:20]))  # known already, and so used
    assert store.save(0, Held(B)) == [PrefixDrop(3), PrefixSave(0, 4, 40)]


def test_what_does_not_fit_drives_nothing_out() -> None:
    store = PrefixStore(40, 1)
    store.save(0, Held(A))
    assert store.save(0, Held((*B, 1))) == []
    assert store.save(0, Held(B), spared=1) == []
    assert store.find(A, "") == (1, 40)


def test_without_a_budget_nothing_is_kept() -> None:
    store = PrefixStore()
    assert store.save(0, Held(A)) == []
    assert store.find(A, "") == (None, 0) and store.bytes == 0


def test_forgetting_drops_all() -> None:
    store = PrefixStore(1000, 10)
    store.save(0, Held(A))
    store.save(0, Held(B))
    assert store.forget() == [PrefixDrop(1), PrefixDrop(2)]
    assert store.find(A, "") == (None, 0) and store.bytes == 0
    assert store.save(0, Held(A)) == [PrefixSave(0, 3, 40)], "a number is never used again"


def test_more_than_was_saved_cannot_be_restored() -> None:
    store = PrefixStore(1000, 10)
    store.save(0, Held(A))
    with pytest.raises(AssertionError, match=r"\(1, 41\)"):
        store.restore(1, 0, 41)


@dataclass(frozen=True)
class Entry:
    number: int
    salt: str
    tokens: tuple[int, ...]

    def common(self, tokens: tuple[int, ...]) -> int:
        pairs = zip(self.tokens, tokens, strict=False)
        differ = (n for n, (mine, theirs) in enumerate(pairs) if mine != theirs)
        return next(differ, min(len(self.tokens), len(tokens)))


# A run of one family's tokens, then perhaps a few of another kind.
prefixes = st.builds(
    lambda family, shared, own, kind: (
        *range(1000 * family, 1000 * family + shared),
        *range(9000 + 100 * kind, 9000 + 100 * kind + own),
    ),
    st.integers(1, 5),
    st.integers(10, 50),
    st.sampled_from((0, 0, 5, 20)),
    st.integers(0, 3),
)
salts = st.sampled_from(("", "salt"))


class StoreMachine(RuleBasedStateMachine):
    """Any order of calls; `kept` is a list, the entry that was used longest ago first."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Entry] = []
        self.last = 0

    @initialize(budget=st.integers(0, 600), size=st.integers(1, 3))
    def begin(self, budget: int, size: int) -> None:
        self.room, self.size = budget // size, size
        self.store = PrefixStore(budget, size)

    @rule(tokens=prefixes, salt=salts, spares=st.booleans())
    def save(self, tokens: tuple[int, ...], salt: str, spares: bool) -> None:
        inside = [e for e in self.kept if e.salt == salt and e.common(tokens) == len(e.tokens)]
        others = [e for e in self.kept if e not in inside]
        spared = others[0] if spares and others else None
        orders = self.store.save(3, Held(tokens, salt), spared and spared.number)
        known = [e for e in self.kept if e.salt == salt and e.common(tokens) == len(tokens)]
        if known and len(tokens) >= SHORTEST:
            self.use(known[-1])
            assert orders == []
            return
        gone = list(inside)
        for each in others:
            if self.tokens_without(gone) + len(tokens) > self.room and each != spared:
                gone.append(each)
        if len(tokens) < SHORTEST or self.tokens_without(gone) + len(tokens) > self.room:
            assert orders == []
            return
        self.last += 1
        drops = [PrefixDrop(each.number) for each in gone]
        assert orders == [*drops, PrefixSave(3, self.last, len(tokens))]
        self.kept = [e for e in self.kept if e not in gone]
        self.kept.append(Entry(self.last, salt, tokens))

    @rule(wanted=prefixes, salt=salts)
    def find(self, wanted: tuple[int, ...], salt: str) -> None:
        mine = [e for e in self.kept if e.salt == salt]
        most = max((e.common(wanted) for e in mine), default=0)
        if most < SHORTEST:
            assert self.store.find(wanted, salt) == (None, 0)
        else:
            best = [e.number for e in mine if e.common(wanted) == most]
            assert self.store.find(wanted, salt) == (best[-1], most)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.kept))
        length = data.draw(st.integers(SHORTEST, len(entry.tokens)))
        before = self.store.restored_tokens
        assert self.store.restore(entry.number, 1, length) == PrefixRestore(entry.number, 1, length)
        assert self.store.restored_tokens - before == length
        self.use(entry)

    @rule(rare=st.sampled_from((False,) * 15 + (True,)))
    def forget(self, rare: bool) -> None:
        if not rare:
            return
        assert self.store.forget() == [PrefixDrop(each.number) for each in self.kept]
        self.kept.clear()

    @invariant()
    def it_keeps_what_the_list_keeps(self) -> None:
        self.store.check()
        assert self.store.bytes == self.size * self.tokens_without([])
        for each in self.kept:
            assert self.store.find(each.tokens, each.salt) == (each.number, len(each.tokens))

    def use(self, entry: Entry) -> None:
        self.kept.remove(entry)
        self.kept.append(entry)

    def tokens_without(self, gone: list[Entry]) -> int:
        return sum(len(e.tokens) for e in self.kept if e not in gone)


StoreMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
test_the_store_in_any_order_of_calls = StoreMachine.TestCase
