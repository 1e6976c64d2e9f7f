"""Chunks beside running rows: as large as the slowdown allows, by the seconds of steps."""

from __future__ import annotations

import random

import pytest

from edgellama.runtime.pace import Pace
from edgellama.runtime.scheduler import Scheduler
from edgellama.runtime.sequence import Sequence, Status
from edgellama.runtime.step import Step
from edgellama.runtime.step_record import Stall

CHUNK = 128


class Machine:
    """Steps take an amount for the weights and one for each token, as on a CPU."""

    def __init__(self, weights: float = 0.05, token: float = 0.01, noise: float = 0.0) -> None:
        self.weights, self.token = weights, token
        self._noise, self._draw = noise, random.Random(3)

    def alone(self, rows: int) -> float:
        return self.weights + self.token * rows

    def seconds(self, rows: int, chunk: int) -> float:
        chunked = self.weights + self.token * chunk if chunk else 0.0
        spike = 10.0 if self._draw.random() < self._noise else 1.0
        return ((self.alone(rows) if rows else 0.0) + chunked) * spike


def settle(pace: Pace, machine: Machine, rows: int, steps: int = 32) -> list[int]:
    """Return the chunks of so many steps beside rows."""
    chunks = []
    for _ in range(steps):
        most = pace.chunk_tokens(rows)
        chunk = CHUNK if most is None else most
        pace.record(rows, chunk, machine.seconds(rows, chunk))
        chunks.append(chunk)
    return chunks


@pytest.mark.parametrize("slowdown", [1.0, 0.5, -1.0])
def test_a_step_cannot_be_faster_with_a_chunk(slowdown: float) -> None:
    with pytest.raises(ValueError, match="must be > 1"):
        Pace(slowdown, CHUNK)


def test_without_rows_nothing_is_held_back() -> None:
    assert Pace(2.0, CHUNK).chunk_tokens(0) is None


@pytest.mark.parametrize(
    ("slowdown", "expected"),
    [(2.0, 4), (3.0, 8), (4.0, 16), (6.0, 32), (10.0, 64), (30.0, 128)],
)
def test_the_largest_chunk_within_the_slowdown(slowdown: float, expected: int) -> None:
    machine = Machine()
    chunks = settle(Pace(slowdown, CHUNK), machine, rows=4)
    assert chunks[-1] == expected
    bound = slowdown * machine.alone(4)
    assert machine.seconds(4, expected) <= bound + 1e-9
    if expected < CHUNK:
        assert machine.seconds(4, 2 * expected) > bound
    # A size is tried twice, from the smallest on: no other step exceeds the bound.
    assert sum(machine.seconds(4, chunk) > bound + 1e-9 for chunk in chunks) == 2 * (
        expected < CHUNK
    )


def test_a_size_that_was_too_slow_is_tried_again_seldom() -> None:
    chunks = settle(Pace(3.0, CHUNK), Machine(), rows=4, steps=2000)
    assert set(chunks) == {0, 4, 8, 16}
    assert 12 <= chunks.count(16) <= 16
    assert chunks.count(4) == 1 and chunks.count(8) > 1900


def test_the_least_chunk_goes_on_where_even_that_is_slow() -> None:
    assert settle(Pace(1.01, CHUNK), Machine(), rows=1)[1:] == [4] * 31
    assert settle(Pace(1.01, 2), Machine(), rows=1)[1:] == [2] * 31  # a chunk is at most that


def test_rows_are_timed_again_now_and_then() -> None:
    chunks = settle(Pace(3.0, CHUNK), Machine(), rows=4, steps=200)
    alone = [i for i, chunk in enumerate(chunks) if chunk == 0]
    assert alone == [0, 33, 66, 99, 132, 165, 198]


def test_other_work_of_the_machine_does_not_stay_in_the_estimate() -> None:
    chunks = settle(Pace(3.0, CHUNK), Machine(noise=0.1), rows=4, steps=400)
    assert [chunk for chunk in chunks if chunk].count(8) > 250


def test_a_faster_machine_is_noticed() -> None:
    pace = Pace(3.0, CHUNK)
    assert settle(pace, Machine(0.05, 0.01), rows=4)[-1] == 8
    faster = settle(pace, Machine(0.05, 0.001), rows=4, steps=400)[-10:]
    assert set(faster) - {0} == {32}  # 54 ms for 4 rows, 82 for 32 more, 114 for 64
    slower = settle(pace, Machine(0.05, 0.01), rows=4, steps=400)[-10:]
    assert set(slower) - {0} == {8}


def sequence(name: str, tokens: int, new: int = 8) -> Sequence:
    return Sequence(name, tuple(range(tokens)), new)


def run(scheduler: Scheduler, machine: Machine) -> Step | None:
    scheduler.admit()
    step = scheduler.schedule()
    if step is not None:
        owners = scheduler.sequences(step)
        done = {s.id for s in owners if len(s.output) + 1 == s.max_new_tokens}
        scheduler.update(step, [7] * len(owners), done)
        chunk = len(step.prefill.tokens) if step.prefill else 0
        scheduler.record(step, machine.seconds(len(step.decode), chunk))
        scheduler.check()
    return step


def test_the_scheduler_cuts_chunks_and_says_so() -> None:
    scheduler = Scheduler(2, 600, CHUNK, 8, pace=Pace(3.0, CHUNK))
    machine = Machine()
    stream, long = sequence("stream", 10, 100), sequence("long", 300)
    scheduler.add(stream)
    first = run(scheduler, machine)
    assert first is not None and first.prefill is not None and len(first.prefill.tokens) == 10
    scheduler.add(long)
    sizes, stalls = [], []
    while long.status is not Status.DECODING:
        scheduler.admit()
        step = scheduler.schedule()
        assert step is not None and len(step.decode) == 1
        stalls += [stall.value for stall in scheduler.choice(step).stalls]
        size = len(step.prefill.tokens) if step.prefill else 0
        sizes.append(size)
        scheduler.update(step, [7] * step.num_logits, set())
        scheduler.record(step, machine.seconds(1, size))
    assert sizes[0] == 0 and sum(sizes) == 300
    # A row takes 60 ms, 4 tokens add 90 and 8 add 130: more than 120.
    assert sizes[1:4] == [4, 8, 8] and set(sizes[4:]) == {4, 0}
    assert set(stalls) == {Stall.CHUNK_SLOWDOWN.value}
    assert len(stalls) >= len(sizes) - 1  # what is left at the end is no cut


def test_tokens_and_seconds_bound_a_chunk_together() -> None:
    scheduler = Scheduler(2, 600, CHUNK, 8, step_tokens=7, pace=Pace(100.0, CHUNK))
    machine = Machine()
    scheduler.add(sequence("stream", 5, 100))
    run(scheduler, machine)
    scheduler.add(sequence("long", 60))
    sizes = []
    for _ in range(8):
        scheduler.admit()
        step = scheduler.schedule()
        assert step is not None and step.decode
        size = len(step.prefill.tokens) if step.prefill else 0
        sizes.append(size)
        reasons = scheduler.choice(step).stalls
        assert reasons == ((Stall.STEP_TOKENS,) if size == 6 else (Stall.CHUNK_SLOWDOWN,))
        scheduler.update(step, [7] * step.num_logits, set())
        scheduler.record(step, machine.seconds(1, size))
    assert sizes == [0, 4, 6, 6, 6, 6, 6, 6]
