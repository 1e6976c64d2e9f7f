"""The prefix cache beside a pool of real tokens: what it promises to be there is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.runtime.prefix import SHORTEST, Held, shared_prefix
from edgellama.runtime.prefix_cache import PrefixCache
from edgellama.runtime.step import SlotCopy

SLOTS = 4
A = tuple(range(100, 140))
B = tuple(range(200, 240))


def enter(cache: PrefixCache, slot: int, prompt: tuple[int, ...], salt: str = "") -> int:
    """Enter with nothing running, and no copy."""
    shared, copies = cache.enter(slot, prompt, salt, {})
    assert copies == []
    return shared


def test_a_prompt_stays_in_the_slot_that_holds_its_beginning() -> None:
    cache = PrefixCache(SLOTS)
    assert enter(cache, 0, A) == 0
    cache.leave(0, A, "")
    assert cache.length(0) == len(A)
    assert enter(cache, 0, (*A, 1, 2)) == len(A)


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    cache = PrefixCache(SLOTS)
    enter(cache, 0, A)
    cache.leave(0, (*A, *range(10)), "")
    # What lies behind the shared tokens is saved in the slot that was used longest ago.
    assert cache.enter(0, A[:30], "", {}) == (29, [SlotCopy(0, 1, 50)])


def test_salts_are_kept_apart() -> None:
    cache = PrefixCache(1)
    enter(cache, 0, A, "one")
    cache.leave(0, A, "one")
    assert enter(cache, 0, A, "two") == 0
    cache.leave(0, A, "two")
    assert enter(cache, 0, A, "two") == len(A) - 1


def test_few_tokens_are_not_worth_a_copy() -> None:
    cache = PrefixCache(SLOTS)
    enter(cache, 0, A)
    cache.leave(0, A[: SHORTEST - 1], "")
    assert cache.length(0) == 0
    assert enter(cache, 0, A) == 0
    running = {0: Held(A, "")}
    assert cache.enter(1, A[:SHORTEST], "", running) == (0, [])
    cache.leave(1, (), "")
    assert cache.enter(1, A[: SHORTEST + 1], "", running) == (
        SHORTEST,
        [SlotCopy(0, 1, SHORTEST)],
    )


def test_the_longest_prefix_is_copied_and_the_overwritten_one_saved() -> None:
    cache = PrefixCache(SLOTS)
    for slot, tokens in enumerate((B, A[:20], A)):
        enter(cache, slot, (*range(slot), slot))
        cache.leave(slot, tokens, "")
    shared, copies = cache.enter(0, (*A[:30], 1), "", {})
    assert shared == 30
    assert copies == [SlotCopy(0, 3, len(B)), SlotCopy(2, 0, 30)]
    assert [cache.length(slot) for slot in (1, 2, 3)] == [20, len(A), len(B)]


def test_what_was_taken_whole_is_not_kept_twice() -> None:
    cache = PrefixCache(2)
    enter(cache, 0, B)
    enter(cache, 1, A)
    cache.leave(1, A, "")
    cache.leave(0, (), "")
    assert cache.enter(0, (*A, 1), "", {}) == (len(A), [SlotCopy(1, 0, len(A))])
    assert cache.length(1) == 0


def test_the_slot_that_was_used_last_is_not_given_up_for_an_older_one() -> None:
    cache = PrefixCache(2)
    enter(cache, 0, A)
    enter(cache, 1, B)
    cache.leave(0, A, "")
    cache.leave(1, B, "")
    assert cache.enter(0, tuple(range(20)), "", {}) == (0, [])
    assert cache.length(1) == len(B)


def test_slots_below_running_ones_are_emptied() -> None:
    cache = PrefixCache(SLOTS)
    for slot, tokens in enumerate((A, B, A[:20], ())):
        enter(cache, slot, (slot,))
        if slot != 2:
            cache.leave(slot, tokens, "")
    # Slot 2 runs: what 0 and 1 hold goes to slot 3, where the later one stays.
    assert cache.clear_below(2) == [SlotCopy(0, 3, len(A)), SlotCopy(1, 3, len(B))]
    assert [cache.length(slot) for slot in (0, 1, 3)] == [0, 0, len(B)]
    assert cache.clear_below(2) == []


def test_forgetting() -> None:
    cache = PrefixCache(1)
    enter(cache, 0, A)
    cache.leave(0, A, "")
    cache.forget()
    assert cache.length(0) == 0 and enter(cache, 0, A) == 0


def test_a_slot_is_not_freed_twice() -> None:
    with pytest.raises(AssertionError, match="slot 0 is freed twice"):
        PrefixCache(1).leave(0, A, "")


tokens = st.lists(st.integers(0, 1), max_size=60)


@given(tokens, tokens)
def test_shared_prefix(left: list[int], right: list[int]) -> None:
    expected = next(
        (n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )
    assert shared_prefix(left, right) == expected


Move = tuple[int, tuple[str, int, int], str]  # slot, prompt, salt
# A prompt is a run of one family's tokens, then tokens of nobody else.
families = st.tuples(st.sampled_from("ab"), st.integers(0, 50), st.integers(1, 30))
moves = st.lists(
    st.tuples(st.integers(0, SLOTS - 1), families, st.sampled_from(("", "salt"))), max_size=40
)


@given(moves)
def test_what_is_promised_is_in_the_pool(
    moves: list[tuple[int, tuple[str, int, int], str]],
) -> None:
    cache, running = PrefixCache(SLOTS), dict[int, Held]()
    pool: list[list[tuple[str, int]]] = [[(".", -1)] * 100 for _ in range(SLOTS)]
    for number, (slot, (family, shared, own), salt) in enumerate(moves):
        if slot in running:
            held = running.pop(slot)
            cache.leave(slot, held.tokens, held.salt)
            continue
        base = {"a": 1000, "b": 2000}[family]
        prompt = (*range(base, base + shared), *range(10000 * number, 10000 * number + own))
        found, copies = cache.enter(slot, prompt, salt, running)
        for copy in copies:
            assert copy.source != copy.target and copy.target not in running
            pool[copy.target][: copy.length] = pool[copy.source][: copy.length]
        assert found == 0 or SHORTEST <= found < len(prompt)
        assert pool[slot][:found] == [(salt, token) for token in prompt[:found]]
        pool[slot][: len(prompt)] = [(salt, token) for token in prompt]
        running[slot] = Held(prompt, salt)
        for free in set(range(SLOTS)) - set(running):
            length = cache.length(free)
            held = cache._free[free]
            assert pool[free][:length] == [(held.salt, token) for token in held.tokens]
