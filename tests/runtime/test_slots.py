"""The slot pool against a set of integers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.runtime.slots import SlotPool


def test_lowest_free_slot_goes_first() -> None:
    pool = SlotPool(4)
    assert [pool.allocate() for _ in range(4)] == [0, 1, 2, 3]
    pool.free(2)
    pool.free(0)
    assert [pool.allocate(), pool.allocate()] == [0, 2]
    pool.check()


def test_a_full_pool_hands_out_nothing() -> None:
    pool = SlotPool(1)
    pool.allocate()
    with pytest.raises(IndexError):
        pool.allocate()


def test_a_freed_slot_starts_empty() -> None:
    pool = SlotPool(2)
    slot = pool.allocate()
    pool.extend(slot, 5)
    assert pool.lengths == (5, 0)
    pool.free(slot)
    assert pool.lengths == (0, 0)
    assert pool.allocate() == slot
    pool.check()


@pytest.mark.parametrize("misuse", [SlotPool.free, lambda pool, slot: pool.extend(slot, 1)])
def test_a_free_slot_is_neither_freed_nor_extended(misuse) -> None:  # type: ignore[no-untyped-def]
    pool = SlotPool(2)
    pool.allocate()
    with pytest.raises(AssertionError):
        misuse(pool, 1)


def test_check_sees_a_leak() -> None:
    pool = SlotPool(2)
    pool._free.pop()
    with pytest.raises(AssertionError):
        pool.check()


def test_no_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="slots is 0"):
        SlotPool(0)


@given(st.integers(1, 6), st.lists(st.integers(0, 11)))
def test_agrees_with_a_set(slots: int, moves: list[int]) -> None:
    pool, free = SlotPool(slots), set(range(slots))
    for move in moves:
        if move < slots and move not in free:
            pool.free(move)
            free.add(move)
        elif free:
            assert pool.allocate() == min(free)
            free.remove(min(free))
        pool.check()
        assert pool.num_free == len(free)
