"""Prompts that share prefixes, in any order of calls, over a pool that keeps the real tokens.

The pool does what a backend may do at worst: it writes rubbish into every idle slot. So a row whose
cache is not exactly its own tokens is a fault of the scheduler.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from edgellama.runtime.prefix import SHORTEST
from edgellama.runtime.prefix_store import PrefixStore
from edgellama.runtime.request import QueueFullError
from edgellama.runtime.scheduler import Scheduler
from edgellama.runtime.sequence import Sequence
from edgellama.runtime.step import (
    CacheCopy,
    PrefixDrop,
    PrefixRestore,
    PrefixSave,
    SlotCopy,
    Step,
)

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


def group(size: int, prompt: tuple[int, ...], **order: object) -> list[Sequence]:
    """Return the outputs of one prompt, the leader first."""
    first = Sequence("a", prompt, 5, **order)  # type: ignore[arg-type]
    return [
        first,
        *(Sequence(f"a#{i}", prompt, 5, leader=first, **order) for i in range(1, size)),  # type: ignore[arg-type]
    ]


def test_siblings_take_the_prompt_from_their_leader() -> None:
    scheduler = Scheduler(4, CAPACITY, CHUNK, QUEUE)
    first, *siblings = group(4, tuple(range(30)))
    scheduler.add(first, siblings)
    assert (scheduler.num_waiting, scheduler.num_running) == (4, 0)
    steps = [next_step(scheduler)]
    scheduler.update(steps[0], [], set())
    scheduler.check()
    assert (scheduler.num_waiting, scheduler.num_running) == (3, 1)
    steps.append(next_step(scheduler))
    scheduler.update(steps[1], [50], set())
    while any(sibling.is_prefilling or sibling.slot is None for sibling in siblings):
        steps.append(next_step(scheduler))
        scheduler.update(steps[-1], [50] * steps[-1].num_logits, set())
    chunks = [len(step.prefill.tokens) for step in steps if step.prefill]
    assert chunks == [20, 10, 1, 1, 1]
    assert [sibling.cached for sibling in siblings] == [29] * 3
    assert sum(len(step.copies) for step in steps) == 3


def test_siblings_of_a_leader_that_ends_at_its_first_token_find_the_prompt() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE)
    first, sibling = group(2, tuple(range(20)))
    scheduler.add(first, [sibling])
    scheduler.update(next_step(scheduler), [50], {"a"})
    assert next_step(scheduler).prefill is not None
    assert sibling.cached == 19


def test_siblings_of_a_cancelled_leader_do_not_wait_for_it() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE)
    first, *siblings = group(3, tuple(range(20)))
    scheduler.add(first, siblings)
    scheduler.cancel("a#2")
    scheduler.cancel("a")
    scheduler.check()
    assert scheduler.admit() == [siblings[0]]


def test_siblings_go_before_other_tenants_but_not_before_a_greater_priority() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE)
    first, sibling = group(2, tuple(range(20)), tenant="much")
    other, urgent = Sequence("b", (1,), 1), Sequence("c", (1,), 1, priority=1)
    scheduler.add(first, [sibling])
    scheduler.add(other)  # here from the start, so its tenant is served less
    scheduler.update(next_step(scheduler), [50], {"a"})
    scheduler.add(urgent)
    order = []
    while scheduler.has_work:
        order += [each.id for each in scheduler.admit()]
        step = scheduler.schedule()
        assert step is not None
        scheduler.update(step, [50], {scheduler.sequences(step)[0].id})
    assert order == ["c", "a#1", "b"]


def test_the_queue_has_room_for_all_outputs_or_for_none() -> None:
    scheduler = Scheduler(2, CAPACITY, CHUNK, 1)
    first, *siblings = group(4, (1,))
    with pytest.raises(QueueFullError, match="0 requests wait for one of 2 slots"):
        scheduler.add(first, siblings)
    assert not scheduler.has_work
    scheduler.add(first, siblings[:2])
    scheduler.check()
    with pytest.raises(QueueFullError, match="3 requests wait"):
        scheduler.add(Sequence("b", (1,), 1))


def test_what_a_slot_loses_is_saved_and_comes_back() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE, store=PrefixStore(60, 1))
    first, second = tuple(range(30)), tuple(range(100, 125))
    run_alone(scheduler, Sequence("a", first, 1))
    step, _ = run_alone(scheduler, Sequence("b", second, 1))
    assert step.copies == (PrefixSave(0, 1, 30),)
    again = Sequence("c", first, 1)
    scheduler.add(again)
    step = next_step(scheduler)
    assert step.copies == (PrefixSave(0, 2, 25), PrefixRestore(1, 0, 29))
    assert again.cached == 29 and step.lengths == (29,)
    assert (scheduler.store.bytes, scheduler.store.restored_tokens) == (55, 29)
    choice = scheduler.choice(step)
    assert (choice.copies, choice.saves, choice.restores) == (0, 1, 1)
    scheduler.update(step, [7], {"c"})
    other = Sequence("d", first, 1, "salt")
    steps = run_alone(scheduler, other)
    assert other.cached == 0 and steps[0].copies == (), "what it overwrites is in the store"


def test_what_a_slot_is_given_up_for_another_prefix_is_saved_before() -> None:
    scheduler = Scheduler(2, CAPACITY, CHUNK, QUEUE, store=PrefixStore(60, 1))
    for name, begin in (("a", 0), ("b", 100)):
        run_alone(scheduler, Sequence(name, tuple(range(begin, begin + 20)), 1))
    # The first slot's prompt goes to the second, whose own one has no slot left.
    steps = run_alone(scheduler, Sequence("c", tuple(range(200, 220)), 1))
    assert steps[0].copies == (PrefixSave(1, 1, 20), SlotCopy(0, 1, 20))


def test_a_failed_step_leaves_nothing_in_the_store() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE, store=PrefixStore(60, 1))
    run_alone(scheduler, Sequence("a", tuple(range(30)), 1))
    scheduler.add(Sequence("b", tuple(range(100, 120)), 1))
    next_step(scheduler)
    scheduler.clear()
    assert scheduler.store.bytes == 0
    again = Sequence("c", tuple(range(30)), 1)
    steps = run_alone(scheduler, again)
    assert again.cached == 0 and steps[0].copies == (PrefixDrop(1),)


def test_what_a_failed_step_was_to_drop_is_dropped_by_the_next() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE, store=PrefixStore(30, 1))
    run_alone(scheduler, Sequence("a", tuple(range(30)), 1))
    run_alone(scheduler, Sequence("b", tuple(range(100, 125)), 1))
    scheduler.add(Sequence("c", tuple(range(200, 220)), 1))
    assert next_step(scheduler).copies == (PrefixDrop(1), PrefixSave(0, 2, 25))
    scheduler.clear()
    steps = run_alone(scheduler, Sequence("d", tuple(range(30)), 1))
    assert steps[0].copies == (PrefixDrop(1), PrefixDrop(2))


class PrefixMachine(RuleBasedStateMachine):
    """Prompts of two families and two salts, of one or more outputs; some lose their slots.

    Every step is carried out on the pool of tokens, and on a host that keeps what was saved.
    """

    def __init__(self) -> None:
        super().__init__()
        self.host: dict[int, list[Cell]] = {}
        self.restored = 0
        self.pool: list[list[Cell]] = [[RUBBISH] * CAPACITY for _ in range(SLOTS)]
        self.alive: dict[str, Sequence] = {}
        self.scored: dict[str, int] = {}  # tokens of prompts whose logits came
        self.count = 0

    @initialize(budget=st.sampled_from((0, 30, 70, 200)))
    def begin(self, budget: int) -> None:
        self.budget = budget
        store = PrefixStore(3 * budget + 2, 3)
        self.scheduler = Scheduler(SLOTS, CAPACITY, CHUNK, QUEUE, preempt=True, store=store)

    @rule(
        family=st.integers(0, 1),
        shared=st.integers(0, 60),
        own=st.integers(1, 15),
        new=st.integers(1, 5),
        salt=st.sampled_from(("", "salt")),
        priority=st.integers(0, 2),
        outputs=st.sampled_from((1, 1, 2, 4)),
        scored=st.sampled_from((False, False, True)),
    )
    def add(
        self,
        family: int,
        shared: int,
        own: int,
        new: int,
        salt: str,
        priority: int,
        outputs: int,
        scored: bool,
    ) -> None:
        if len(self.alive) + outputs > SLOTS + QUEUE:
            return
        self.count += 1
        base, mine = 1000 * (family + 1), 10000 * self.count
        prompt = (*range(base, base + shared), *range(mine, mine + own))
        name = f"r{self.count}"
        first = Sequence(name, prompt, new, salt, priority, is_scored=scored)
        siblings = [
            Sequence(f"{name}#{i}", prompt, new, salt, priority, leader=first)
            for i in range(1, outputs)
        ]
        self.scheduler.add(first, siblings)
        self.alive.update((each.id, each) for each in (first, *siblings))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), admitted=st.booleans())
    def cancel(self, data: st.DataObject, admitted: bool) -> None:
        if admitted:  # its copies are still to be made
            self.scheduler.admit()
        name = data.draw(st.sampled_from(list(self.alive)))
        self.scheduler.cancel(name)
        del self.alive[name]

    @rule(data=st.data(), scheduled=st.booleans(), rare=st.sampled_from((False,) * 15 + (True,)))
    def fail(self, data: st.DataObject, scheduled: bool, rare: bool) -> None:
        """Fail in the middle of a step: no slot and no entry can be trusted."""
        if not rare:
            return
        self.scheduler.admit()
        step = self.scheduler.schedule() if scheduled else None
        if step is not None:
            for copy in step.copies[: data.draw(st.integers(0, len(step.copies)))]:
                self.copy(copy)
        self.scheduler.clear()
        self.alive.clear()
        self.pool = [[RUBBISH] * CAPACITY for _ in range(SLOTS)]
        for cells in self.host.values():
            cells[:] = [RUBBISH] * len(cells)

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
            self.copy(copy)
        store = self.scheduler.store
        kept = {
            number: [(entry.salt, token) for token in entry.tokens]
            for number, entry in store._entries.items()
        }
        assert self.host == kept, "the host has what the store says, and nothing else"
        assert store.bytes == 3 * sum(map(len, self.host.values()))
        assert store.restored_tokens >= self.restored
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
            owner = owners[step.prefill.slot]
            assert step.prefill.is_scored == (owner.is_scored and not owner.output)
            if step.prefill.is_scored:
                assert step.prefill.start <= self.scored.get(owner.id, 0), "a gap in its scores"
                end = step.prefill.start + len(step.prefill.tokens)
                self.scored[owner.id] = max(self.scored.get(owner.id, 0), end)
                assert not step.prefill.is_last or self.scored[owner.id] == len(owner.prompt)
            fed.append((step.prefill.slot, step.prefill.tokens, step.prefill.start))
        for slot, tokens, start in fed:
            sequence = owners[slot]
            whole = [(sequence.salt, t) for t in (*sequence.prompt, *sequence.output)]
            self.pool[slot][start : start + len(tokens)] = [(sequence.salt, t) for t in tokens]
            assert self.pool[slot][: start + len(tokens)] == whole[: start + len(tokens)]
            if sequence.is_scored:
                assert sequence.cached == 0
            assert sequence.cached == 0 or SHORTEST <= sequence.cached < len(sequence.prompt)

    def copy(self, copy: CacheCopy) -> None:
        if isinstance(copy, SlotCopy):
            self.pool[copy.target][: copy.length] = self.pool[copy.source][: copy.length]
        elif isinstance(copy, PrefixSave):
            assert copy.entry not in self.host and copy.length >= SHORTEST
            self.host[copy.entry] = self.pool[copy.slot][: copy.length]
            assert sum(map(len, self.host.values())) <= self.budget, "over the budget"
        elif isinstance(copy, PrefixRestore):
            assert SHORTEST <= copy.length <= len(self.host[copy.entry])
            self.pool[copy.slot][: copy.length] = self.host[copy.entry][: copy.length]
            self.restored += copy.length
        else:
            self.host.pop(copy.entry, None)

    @invariant()
    def slots_and_queues_agree(self) -> None:
        self.scheduler.check()
        for sequence in self.alive.values():
            leader = sequence.leader
            if leader is not None and self.alive.get(leader.id) and not leader.output:
                assert sequence.slot is None, "it computes what its leader does"

    def teardown(self) -> None:
        """Everything that was asked for ends: nobody waits for a prompt that never comes."""
        for _ in range(sum(CAPACITY + each.max_new_tokens for each in self.alive.values())):
            if self.alive:
                self.step(ends=False)
        assert not self.alive and not self.scheduler.has_work


PrefixMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
test_prefixes_in_any_order_of_calls = PrefixMachine.TestCase
