"""The scheduler: single steps by hand, then any order of calls against a tiny model of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgellama.runtime.request import QueueFullError
from edgellama.runtime.scheduler import Scheduler
from edgellama.runtime.sequence import Sequence, Status
from edgellama.runtime.step import DecodeRow, PrefillChunk, Step

SLOTS, CAPACITY, CHUNK, QUEUE = 3, 12, 4, 4


def sequence(name: str, prompt: int, new: int = 2) -> Sequence:
    return Sequence(name, tuple(range(100, 100 + prompt)), new)


def next_step(scheduler: Scheduler) -> Step:
    scheduler.admit()
    step = scheduler.schedule()
    assert step is not None
    return step


def test_nothing_to_do_is_no_step() -> None:
    scheduler = Scheduler(SLOTS, CAPACITY, CHUNK, QUEUE)
    assert not scheduler.has_work
    assert scheduler.admit() == []
    assert scheduler.schedule() is None


def test_a_prompt_is_cut_into_chunks_and_then_decodes() -> None:
    scheduler = Scheduler(SLOTS, CAPACITY, CHUNK, QUEUE)
    scheduler.add(sequence("a", 6))
    step = next_step(scheduler)
    assert step == Step((), PrefillChunk(0, (100, 101, 102, 103), 0, False), (0, 0, 0))
    assert scheduler.sequences(step) == []
    scheduler.update(step, [], set())
    step = next_step(scheduler)
    assert step == Step((), PrefillChunk(0, (104, 105), 4, True), (4, 0, 0))
    scheduler.update(step, [7], set())
    step = next_step(scheduler)
    assert step == Step((DecodeRow(0, 7, 6),), None, (6, 0, 0))
    (running,) = scheduler.sequences(step)
    scheduler.update(step, [8], {"a"})
    assert running.output == [7, 8]
    assert running.status is Status.FINISHED
    assert not scheduler.has_work


def test_a_request_joins_between_two_steps_and_reuses_a_slot_at_once() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE)
    scheduler.add(sequence("a", 2))
    scheduler.add(sequence("b", 3))
    step = next_step(scheduler)
    scheduler.update(step, [7], {"a"})
    step = next_step(scheduler)
    assert step.prefill == PrefillChunk(0, (100, 101, 102), 0, True)
    assert step.lengths == (0,)


def test_decode_rows_run_beside_the_chunk_of_the_shortest_prompt() -> None:
    scheduler = Scheduler(SLOTS, CAPACITY, CHUNK, QUEUE)
    scheduler.add(sequence("a", 2, 5))
    step = next_step(scheduler)
    scheduler.update(step, [7], set())
    scheduler.add(sequence("b", 6))
    scheduler.add(sequence("c", 1))
    for slot, chunk in ((2, (100,)), (1, (100, 101, 102, 103)), (1, (104, 105))):
        step = next_step(scheduler)
        assert step.decode[0].slot == 0
        assert step.prefill is not None and step.prefill.slot == slot
        assert step.prefill.tokens == chunk
        scheduler.update(step, [7] * step.num_logits, {"c"})
    step = next_step(scheduler)
    assert [row.slot for row in step.decode] == [0, 1] and step.prefill is None


def test_the_queue_is_bounded_beyond_the_free_slots() -> None:
    scheduler = Scheduler(2, CAPACITY, CHUNK, 1)
    for name in "abc":
        scheduler.add(sequence(name, 2))
    with pytest.raises(QueueFullError, match=r"limits\.max_queue is 1"):
        scheduler.add(sequence("d", 2))
    scheduler.admit()
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)
    with pytest.raises(QueueFullError):
        scheduler.add(sequence("d", 2))
    assert scheduler.cancel("c") is not None
    scheduler.add(sequence("d", 2))
    scheduler.check()


def test_cancel_frees_the_slot_for_the_next_step() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE)
    scheduler.add(sequence("a", 6))
    scheduler.add(sequence("b", 2))
    scheduler.update(next_step(scheduler), [], set())
    assert scheduler.cancel("a") is not None
    assert scheduler.cancel("a") is None
    step = next_step(scheduler)
    assert step.prefill == PrefillChunk(0, (100, 101), 0, True)


def test_clear_drops_everything_even_in_a_step() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE)
    scheduler.add(sequence("a", 6))
    scheduler.add(sequence("b", 2))
    next_step(scheduler)
    assert [dropped.id for dropped in scheduler.clear()] == ["a", "b"]
    scheduler.check()
    assert not scheduler.has_work and scheduler.num_free_slots == 1


def test_misuse_is_caught() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE)
    with pytest.raises(AssertionError):
        scheduler.add(sequence("long", 11, 2))
    scheduler.add(sequence("a", 2, 1))
    step = next_step(scheduler)
    for misuse in (
        lambda: scheduler.schedule(),
        lambda: scheduler.cancel("a"),
        lambda: scheduler.update(step, [], set()),
        lambda: scheduler.update(Step((), None, (0,)), [], set()),
    ):
        with pytest.raises(AssertionError):
            misuse()
    with pytest.raises(AssertionError, match="a must finish"):
        scheduler.update(step, [7], set())


def test_imports_the_standard_library_only() -> None:
    code = (
        "import sys; sys.modules.update(numpy=None, onnxruntime=None, torch=None)\n"
        "import edgellama.runtime.scheduler"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@dataclass
class Expected:
    """What the reference model knows of one sequence."""

    prompt: tuple[int, ...]
    new: int
    fed: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    slot: int | None = None
    passed: int = 0  # chunks in a row that others got while it was the oldest


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, cancels and steps in any order; the reference is a list in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(SLOTS, CAPACITY, CHUNK, QUEUE)
        self.alive: dict[str, Expected] = {}  # in order of arrival
        self.sequences: dict[str, Sequence] = {}
        self.count = 0

    def slots_taken(self) -> dict[int, Expected]:
        return {e.slot: e for e in self.alive.values() if e.slot is not None}

    @rule(prompt=st.integers(1, CAPACITY - 1), data=st.data())
    def add(self, prompt: int, data: st.DataObject) -> None:
        new = data.draw(st.integers(1, CAPACITY - prompt))
        self.count += 1
        name = f"r{self.count}"
        tokens = tuple(self.count * 1000 + i for i in range(prompt))
        one = Sequence(name, tokens, new)
        if len(self.alive) >= SLOTS + QUEUE:
            with pytest.raises(QueueFullError):
                self.scheduler.add(one)
        else:
            self.scheduler.add(one)
            self.alive[name] = Expected(tokens, new)
            self.sequences[name] = one

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(self.alive)))
        assert self.scheduler.cancel(name) is self.sequences[name]
        assert self.scheduler.cancel(name) is None
        del self.alive[name]

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        self.admit_as_expected()
        before = self.slots_taken()
        step = self.scheduler.schedule()
        if not self.alive:
            assert step is None
            return
        assert step is not None
        assert step.lengths == tuple(len(before[s].fed) if s in before else 0 for s in range(SLOTS))
        # Decode rows: exactly those whose prompt is through, each with its newest token.
        assert {row.slot: (row.token, row.position) for row in step.decode} == {
            slot: (e.output[-1], len(e.fed))
            for slot, e in before.items()
            if len(e.fed) >= len(e.prompt)
        }
        owners = [before[row.slot] for row in step.decode]
        for row in step.decode:
            before[row.slot].fed.append(row.token)
        # The chunk: of the prompt with the fewest tokens left, every fourth of the oldest.
        pending = [e for e in self.alive.values() if e.slot is not None and not e.output]
        assert (step.prefill is None) == (not pending)
        if step.prefill is not None:
            first = pending[0]
            if first.passed < 3:
                first = min(pending, key=lambda e: len(e.prompt) - len(e.fed))
            pending[0].passed = 0 if first is pending[0] else pending[0].passed + 1
            assert step.prefill.slot == first.slot
            assert step.prefill.start == len(first.fed)
            assert 1 <= len(step.prefill.tokens) <= CHUNK
            first.fed += step.prefill.tokens
            assert first.fed == list(first.prompt[: len(first.fed)])
            assert step.prefill.is_last == (len(first.fed) == len(first.prompt))
            if step.prefill.is_last:
                owners.append(first)
        names = [sequence.id for sequence in self.scheduler.sequences(step)]
        assert [self.alive[name] for name in names] == owners
        tokens = [data.draw(st.integers(0, 9), label="token") for _ in names]
        finished = set()
        for name, token in zip(names, tokens, strict=True):
            expected = self.alive[name]
            expected.output.append(token)
            if token == 0 or len(expected.output) == expected.new:
                finished.add(name)
        self.scheduler.update(step, tokens, finished)
        for name in names:
            assert self.sequences[name].output == self.alive[name].output
            if name in finished:
                del self.alive[name]

    def admit_as_expected(self) -> None:
        admitted = [sequence.id for sequence in self.scheduler.admit()]
        free = sorted(set(range(SLOTS)) - set(self.slots_taken()))
        waiting = [name for name, e in self.alive.items() if e.slot is None]
        assert admitted == waiting[: len(free)]
        for name, slot in zip(admitted, free, strict=False):
            assert self.sequences[name].slot == slot
            self.alive[name].slot = slot

    @invariant()
    def slots_and_queues_agree(self) -> None:
        self.scheduler.check()
        assert self.scheduler.has_work == bool(self.alive)
        assert self.scheduler.num_running == len(self.slots_taken())
        assert self.scheduler.num_waiting == len(self.alive) - len(self.slots_taken())
        assert self.scheduler.num_free_slots == SLOTS - len(self.slots_taken())

    def teardown(self) -> None:
        """Every sequence ends within the steps its tokens need."""
        for _ in range(1000):
            self.scheduler.admit()
            step = self.scheduler.schedule()
            if step is None:
                break
            rows = self.scheduler.sequences(step)
            done = {s.id for s in rows if len(s.output) + 1 == s.max_new_tokens}
            self.scheduler.update(step, [1] * len(rows), done)
        self.scheduler.check()
        assert not self.scheduler.has_work
        assert self.scheduler.num_free_slots == SLOTS


SchedulerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_any_order_of_calls = SchedulerMachine.TestCase
