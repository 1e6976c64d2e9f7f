"""Running sequences move to lower slots where a gap between the rows would cost every step."""

from __future__ import annotations

import random

import pytest
from history_engine import CAPACITY, CHUNK, HistoryBackend, byte_codec

from edgellama.profiles.profile import Limits
from edgellama.runtime.compaction import choose_move
from edgellama.runtime.completion import Collector
from edgellama.runtime.engine import Engine
from edgellama.runtime.request import Request, Sampling, Stop
from edgellama.runtime.scheduler import Scheduler
from edgellama.runtime.sequence import Sequence
from edgellama.runtime.step import SlotCopy, Step


def at(slot: int, left: int = 40) -> Sequence:
    return Sequence(f"s{slot}", (1, 2, 3), left, slot=slot)


@pytest.mark.parametrize(
    ("slots", "free", "moved"),
    [
        ((0, 1, 2), 3, None),  # nothing between them
        ((0, 2), 1, 2),
        ((0, 1, 7), 2, 7),
        ((2, 7), 0, 7),  # three slots instead of six
        ((5, 7), 0, None),  # farther away than before
        ((6, 7), 0, None),
        ((3,), 0, None),  # a row alone is as good anywhere
        ((), 0, None),
    ],
)
def test_the_last_moves_where_that_makes_the_range_smaller(
    slots: tuple[int, ...], free: int, moved: int | None
) -> None:
    chosen = choose_move([at(slot) for slot in slots], free)
    assert (None if chosen is None else chosen.slot) == moved


def test_what_ends_soon_stays() -> None:
    assert choose_move([at(0), at(2, left=15)], 1) is None
    assert choose_move([at(0), at(2, left=16)], 1) is not None


def advance(scheduler: Scheduler, ends: str = "") -> Step:
    scheduler.admit()
    step = scheduler.schedule()
    assert step is not None
    scheduler.update(step, [7] * step.num_logits, {ends} if ends else set())
    scheduler.check()
    return step


def test_a_gap_is_closed_by_one_copy() -> None:
    scheduler = Scheduler(4, 200, 50, 8)
    prompts = {name: tuple(range(100 * i, 100 * i + 30)) for i, name in enumerate("abcd")}
    for name, prompt in prompts.items():
        scheduler.add(Sequence(name, prompt, 100))
    for _ in range(4):
        advance(scheduler)
    advance(scheduler, ends="b")
    moved = advance(scheduler)
    assert [row.slot for row in moved.decode] == [0, 1, 2]
    # d had 30 positions of its prompt and one token more. There is no other free slot for what b
    # left.
    assert moved.copies == (SlotCopy(3, 1, 31),)
    assert [row.position for row in moved.decode] == [34, 31, 32]
    advance(scheduler, ends="d")
    after = advance(scheduler)
    # What d left goes to the free slot before c is written over it.
    assert after.copies == (SlotCopy(1, 3, 33), SlotCopy(2, 1, 34))
    assert [row.slot for row in after.decode] == [0, 1]
    assert advance(scheduler).copies == ()
    scheduler.add(Sequence("again", (*prompts["d"], 5), 10))
    again = advance(scheduler)
    assert again.prefill is not None and again.prefill.start == 30


def test_a_gap_in_front_of_all_rows_is_none() -> None:
    scheduler = Scheduler(3, 200, 50, 8)
    for name in "abc":
        scheduler.add(Sequence(name, (1, 2, 3), 100))
    for _ in range(3):
        advance(scheduler)
    advance(scheduler, ends="a")
    step = advance(scheduler)
    assert step.copies == () and [row.slot for row in step.decode] == [1, 2]


def test_who_waits_for_a_slot_takes_it_instead() -> None:
    scheduler = Scheduler(3, 200, 50, 8)
    for i, name in enumerate("abcd"):
        scheduler.add(Sequence(name, tuple(range(100 * i, 100 * i + 30)), 100))
    for _ in range(3):
        advance(scheduler)
    advance(scheduler, ends="b")
    step = advance(scheduler)
    assert step.copies == () and step.prefill is not None and step.prefill.slot == 1


def test_answers_that_move_equal_their_solo_runs() -> None:
    draw = random.Random(5)
    requests = [
        Request(
            tuple(draw.choices(range(64, 72), k=draw.randint(1, 40))),
            Sampling(temperature=0.8, seed=i),
            Stop(max_new_tokens=draw.randint(1, 50), ignore_eos=True),
        )
        for i in range(60)
    ]
    with Engine(HistoryBackend(1), byte_codec(), Limits(1, CAPACITY, CHUNK, 64)) as engine:
        alone = [engine.generate(each) for each in requests]
    backend = HistoryBackend(6)
    with Engine(backend, byte_codec(), Limits(6, CAPACITY, CHUNK, 64)) as engine:
        for first in range(0, len(requests), 6):  # six at a time, so that nobody waits
            collectors = [Collector() for _ in range(6)]
            for each, collector in zip(requests[first:], collectors, strict=False):
                engine.submit(each, collector)
            for expected, collector in zip(alone[first:], collectors, strict=False):
                assert collector.result().outputs == expected.outputs
    gaps = copies = 0
    for step in backend.steps:
        slots = [row.slot for row in step.decode]
        gaps += bool(slots) and slots[-1] - slots[0] >= len(slots)
        copies += len(step.copies)
    assert copies > 20
    assert gaps < len(backend.steps) / 2, "most steps have none"
