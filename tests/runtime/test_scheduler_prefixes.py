"""Prompts that share prefixes, in any order of calls, over a pool that keeps the real tokens.

The pool does what a backend may do at worst: it writes rubbish into every idle slot. So a row whose
cache is not exactly its own tokens is a fault of the scheduler.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgellama.runtime.prefix_cache import SHORTEST
from edgellama.runtime.scheduler import Scheduler
from edgellama.runtime.sequence import Sequence
from edgellama.runtime.step import Step

SLOTS, CAPACITY, CHUNK, QUEUE = 4, 80, 20, 4
Cell = tuple[str, int]  # salt and token
RUBBISH: Cell = ("rubbish", -1)


def next_step(scheduler: Scheduler) -> Step:
    scheduler.admit()
    step = scheduler.schedule()
    assert step is not None
    return step


def run_alone(scheduler: Scheduler, sequence: Sequence) -> list[Step]:
    """Run a sequence of one new token to its end."""
    scheduler.add(sequence)
    steps = [next_step(scheduler)]
    while steps[-1].num_logits == 0:
        scheduler.update(steps[-1], [], set())
        steps.append(next_step(scheduler))
    scheduler.update(steps[-1], [7], {sequence.id})
    return steps


def test_a_prompt_begins_behind_what_is_cached() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE)
    prompt = tuple(range(30))
    assert len(run_alone(scheduler, Sequence("a", prompt, 1))) == 2
    again = Sequence("b", (*prompt, 99), 1)
    (step,) = run_alone(scheduler, again)
    assert again.cached == 30
    assert step.prefill is not None
    assert (step.prefill.start, step.prefill.tokens, step.lengths) == (30, (99,), (30,))


def test_a_prompt_joins_one_that_still_runs() -> None:
    scheduler = Scheduler(2, CAPACITY, CHUNK, QUEUE)
    prompt = tuple(range(20))
    scheduler.add(Sequence("a", prompt, 9))
    scheduler.update(next_step(scheduler), [50], set())
    other = Sequence("b", (*prompt, 50, 51), 9)
    scheduler.add(other)
    step = next_step(scheduler)
    (copy,) = step.copies
    assert (copy.source, copy.target, copy.length, other.cached) == (0, 1, 20, 20)
    assert step.lengths == (20, 20)
    scheduler.update(step, [51, 60], set())
    scheduler.check()


def test_a_request_that_was_never_admitted_found_nothing() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE)
    first, second = (Sequence(name, tuple(range(30)), 2) for name in "ab")
    scheduler.add(first)
    scheduler.add(second)
    next_step(scheduler)
    scheduler.clear()
    assert (first.cached, second.cached) == (0, 0)
    again = Sequence("c", tuple(range(30)), 2)
    scheduler.add(again)
    next_step(scheduler)
    assert again.cached == 0, "what a failed step left is not trusted"


class PrefixMachine(RuleBasedStateMachine):
    """Prompts of two families and two salts, of which some lose their slots to others.

    Every step is carried out on the pool of tokens.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(SLOTS, CAPACITY, CHUNK, QUEUE, preempt=True)
        self.pool: list[list[Cell]] = [[RUBBISH] * CAPACITY for _ in range(SLOTS)]
        self.alive: dict[str, Sequence] = {}
        self.count = 0

    @rule(
        family=st.integers(0, 1),
        shared=st.integers(0, 60),
        own=st.integers(1, 15),
        new=st.integers(1, 5),
        salt=st.sampled_from(("", "salt")),
        priority=st.integers(0, 2),
    )
    def add(self, family: int, shared: int, own: int, new: int, salt: str, priority: int) -> None:
        if len(self.alive) == SLOTS + QUEUE:
            return
        self.count += 1
        base, mine = 1000 * (family + 1), 10000 * self.count
        prompt = (*range(base, base + shared), *range(mine, mine + own))
        sequence = Sequence(f"r{self.count}", prompt, new, salt, priority)
        self.scheduler.add(sequence)
        self.alive[sequence.id] = sequence

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), admitted=st.booleans())
    def cancel(self, data: st.DataObject, admitted: bool) -> None:
        if admitted:  # its copies are still to be made
            self.scheduler.admit()
        name = data.draw(st.sampled_from(list(self.alive)))
        self.scheduler.cancel(name)
        del self.alive[name]

    @rule(ends=st.booleans())
    def step(self, ends: bool) -> None:
        self.scheduler.admit()
        step = self.scheduler.schedule()
        if step is None:
            assert not self.alive
            return
        self.carry_out(step)
        drawn = self.scheduler.sequences(step)
        tokens = [500 + len(sequence.output) for sequence in drawn]
        done = {s.id for s in drawn if ends or len(s.output) + 1 == s.max_new_tokens}
        self.scheduler.update(step, tokens, done)
        for name in done:
            del self.alive[name]

    def carry_out(self, step: Step) -> None:
        owners = {s.slot: s for s in self.alive.values() if s.slot is not None}
        for copy in step.copies:
            self.pool[copy.target][: copy.length] = self.pool[copy.source][: copy.length]
        busy = {row.slot for row in step.decode}
        for slot, length in enumerate(step.lengths):
            if slot not in busy:
                self.pool[slot][length] = RUBBISH
        highest = max(busy, default=0)
        assert all(
            length == 0 for slot, length in enumerate(step.lengths[:highest]) if slot not in owners
        ), "an idle row below a running one attends to nothing"
        fed = [(row.slot, (row.token,), row.position) for row in step.decode]
        if step.prefill is not None:
            fed.append((step.prefill.slot, step.prefill.tokens, step.prefill.start))
        for slot, tokens, start in fed:
            sequence = owners[slot]
            whole = [(sequence.salt, t) for t in (*sequence.prompt, *sequence.output)]
            self.pool[slot][start : start + len(tokens)] = [(sequence.salt, t) for t in tokens]
            assert self.pool[slot][: start + len(tokens)] == whole[: start + len(tokens)]
            assert sequence.cached == 0 or SHORTEST <= sequence.cached < len(sequence.prompt)

    @invariant()
    def slots_and_queues_agree(self) -> None:
        self.scheduler.check()


PrefixMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
test_prefixes_in_any_order_of_calls = PrefixMachine.TestCase
