"""Priorities, tenants, preemption and the budget of a step: by hand, then against a plain model."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgellama.runtime.fair_share import FairShare
from edgellama.runtime.preemption import MAX_PREEMPTIONS
from edgellama.runtime.prefill_order import AGEING
from edgellama.runtime.scheduler import Scheduler
from edgellama.runtime.sequence import Sequence, Status
from edgellama.runtime.step import PrefillChunk, Step
from edgellama.runtime.waiting_queue import MAX_OVERTAKEN, WaitingQueue

SLOTS, CAPACITY, CHUNK, QUEUE, BUDGET = 3, 40, 8, 6, 9
NEVER = 10**6


def sequence(name: str, tokens: int = 2, new: int = 2, **order: object) -> Sequence:
    first = 100 * sum(map(ord, name))  # of their own, so that no prefix is shared
    return Sequence(name, tuple(range(first, first + tokens)), new, **order)  # type: ignore[arg-type]


def step_once(scheduler: Scheduler, token: int = 7, finished: frozenset[str] = frozenset()) -> Step:
    step = scheduler.schedule()
    assert step is not None
    rows = scheduler.sequences(step)
    ends = {s.id for s in rows if s.id in finished or len(s.output) + 1 == s.max_new_tokens}
    scheduler.update(step, [token] * len(rows), ends)
    return step


def names(sequences: list[Sequence]) -> list[str]:
    return [each.id for each in sequences]


def test_the_greater_priority_gets_the_slot() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE)
    for name, priority in (("a", 0), ("b", 0), ("c", 5), ("d", -3), ("e", 5)):
        scheduler.add(sequence(name, new=1, priority=priority))
    order = []
    while scheduler.has_work:
        order += names(scheduler.admit())
        step_once(scheduler)
    assert order == ["c", "e", "a", "b", "d"]


def test_the_tenant_that_was_served_least_gets_the_slot() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE)
    for name, tenant, tokens in (("a", "x", 8), ("b", "x", 1), ("c", "x", 1), ("d", "y", 3)):
        scheduler.add(sequence(name, tokens, new=1, tenant=tenant))
    scheduler.add(sequence("e", 3, new=1, tenant="y"))
    order = []
    while scheduler.has_work:
        order += names(scheduler.admit())
        step_once(scheduler)
    # x is at 8 after its first, so both of y (3 and 6) go before the others of x.
    assert order == ["a", "d", "e", "b", "c"]


def test_what_was_cached_is_not_charged() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE)
    prompt = tuple(range(20))
    for name, tenant in (("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"), ("e", "x")):
        own = prompt if tenant == "x" else tuple(range(900 + ord(name), 906 + ord(name)))
        scheduler.add(Sequence(name, own, 1, tenant=tenant))
    order = []
    while scheduler.has_work:
        order += names(scheduler.admit())
        while not step_once(scheduler).num_logits:
            pass
    assert order == ["a", "c", "d", "b", "e"]


def test_idle_time_earns_no_credit_and_a_lead_is_kept() -> None:
    shares = FairShare()
    shares.enter("busy")
    shares.charge("busy", 100)
    shares.enter("late")
    assert shares.served("late") == 100
    shares.charge("late", 50)
    shares.leave("late")
    shares.charge("busy", 10)
    shares.enter("late")
    assert shares.served("late") == 150, "away for a moment, and still ahead"
    shares.leave("late")
    shares.charge("busy", 90)
    shares.leave("busy")
    shares.check()
    shares.enter("busy")
    assert shares.served("busy") == 0, "nobody was there: all begin again"


def test_a_sequence_is_overtaken_a_bounded_number_of_times() -> None:
    shares = FairShare()
    queue = WaitingQueue(shares)
    low = [sequence("low"), sequence("lower", priority=-1)]
    for each in low:
        shares.enter("")
        queue.add(each)
    popped = []
    for number in range(2 * MAX_OVERTAKEN):
        shares.enter("")
        queue.add(sequence(f"high{number}", priority=1))
        popped.append(queue.pop().id)
    assert popped.index("low") == MAX_OVERTAKEN
    assert popped.index("lower") == MAX_OVERTAKEN + 1


def test_the_oldest_prompt_gets_every_fourth_chunk() -> None:
    scheduler = Scheduler(2, CAPACITY, 1, NEVER)
    scheduler.add(sequence("long", 30))
    for number in range(40):
        scheduler.add(sequence(f"short{number}", 1, new=1))
    owners = []
    for _ in range(24):
        scheduler.admit()
        chunk = step_once(scheduler).prefill
        assert chunk is not None
        owners.append(chunk.slot)
    assert owners == ([1] * (AGEING - 1) + [0]) * (24 // AGEING)


def test_the_prompt_of_the_greater_priority_gets_the_chunks() -> None:
    scheduler = Scheduler(2, CAPACITY, 2, QUEUE)
    scheduler.add(sequence("a", 4))
    scheduler.add(sequence("b", 6, priority=1))
    scheduler.admit()
    chunks = [step_once(scheduler).prefill for _ in range(5)]
    # b was admitted first: it has slot 0, and is the oldest too.
    assert [chunk.slot for chunk in chunks if chunk] == [0, 0, 0, 1, 1]


def test_rows_leave_the_rest_of_the_budget_to_the_chunk() -> None:
    scheduler = Scheduler(SLOTS, CAPACITY, CHUNK, QUEUE, step_tokens=5)
    for name in "ab":
        scheduler.add(sequence(name, 1, new=9))
    scheduler.admit()
    for _ in range(2):
        step_once(scheduler)
    scheduler.add(sequence("c", 20))
    scheduler.admit()
    step = step_once(scheduler)
    assert len(step.decode) == 2
    assert step.prefill is not None and len(step.prefill.tokens) == 3


def test_a_budget_that_rows_alone_could_use_up_is_refused() -> None:
    with pytest.raises(ValueError, match=r"step_tokens is 3; it must be > slots \(3\)"):
        Scheduler(3, CAPACITY, CHUNK, QUEUE, step_tokens=3)


def test_a_preempted_sequence_goes_on_where_it_was() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE, preempt=True)
    low = sequence("low", 5, new=4)
    scheduler.add(low)
    scheduler.admit()
    for token in (11, 12, 13):
        step_once(scheduler, token)
    scheduler.add(sequence("high", 3, new=1, priority=1))
    assert names(scheduler.admit()) == ["high"]
    assert (low.status, low.slot, low.computed) == (Status.WAITING, None, 0)
    scheduler.check()
    step_once(scheduler)
    assert scheduler.admit() == [], "it was admitted before"
    step = step_once(scheduler)
    assert step.prefill == PrefillChunk(0, (*low.prompt, 11, 12), 0, False)
    assert step.num_logits == 0
    step_once(scheduler, 14)
    assert low.output == [11, 12, 13, 14]
    assert scheduler.preemptions == 1 and not scheduler.has_work


def test_what_another_slot_holds_is_not_computed_again() -> None:
    scheduler = Scheduler(2, CAPACITY, 30, QUEUE, preempt=True)
    prompt = tuple(range(20))
    low, twin = Sequence("low", prompt, 9, priority=-1), Sequence("twin", prompt, 9)
    for each in (low, twin):
        scheduler.add(each)
    scheduler.admit()
    for _ in range(3):
        step_once(scheduler)
    assert len(twin.output) > len(low.output) > 0
    scheduler.add(sequence("high", 2, new=2, priority=1))
    assert names(scheduler.admit()) == ["high"]
    step_once(scheduler)
    step_once(scheduler)
    assert scheduler.admit() == []
    assert (low.status, low.computed, low.cached) == (Status.DECODING, low.length - 1, 0)
    step = step_once(scheduler)
    (copy,) = step.copies
    assert copy.length == low.computed - 1
    assert step.prefill is None and len(step.decode) == 2


def test_a_sequence_is_not_preempted_for_ever_nor_for_its_equal() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE, preempt=True)
    low = sequence("low", 2, new=30)
    scheduler.add(low)
    scheduler.add(sequence("equal", 2, new=1))
    scheduler.admit()
    assert low.slot == 0
    for number in range(MAX_PREEMPTIONS + 1):
        scheduler.add(sequence(f"high{number}", 2, new=1, priority=1))
        scheduler.admit()
        step_once(scheduler)
        scheduler.admit()
        assert low.preempted == min(number + 1, MAX_PREEMPTIONS)
    assert low.slot == 0 and scheduler.num_waiting == 2


def test_a_preempted_sequence_can_be_cancelled() -> None:
    scheduler = Scheduler(1, CAPACITY, CHUNK, QUEUE, preempt=True)
    scheduler.add(sequence("low"))
    scheduler.admit()
    scheduler.add(sequence("high", priority=1))
    scheduler.admit()
    assert scheduler.cancel("low") is not None
    scheduler.check()
    assert names(scheduler.clear()) == ["high"]


@dataclass
class Expected:
    """What the plain model knows of one request."""

    arrival: int
    priority: int
    tenant: str
    running: bool = False
    overtaken: int = 0
    preempted: int = 0


class OrderMachine(RuleBasedStateMachine):
    """Any order of calls; who gets a slot is worked out again, rule by rule, from the documents."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(SLOTS, CAPACITY, CHUNK, QUEUE, step_tokens=BUDGET, preempt=True)
        self.alive: dict[str, Expected] = {}
        self.sequences: dict[str, Sequence] = {}
        self.served: dict[str, int] = {}
        self.count = 0

    @rule(
        tokens=st.integers(1, 30),
        new=st.integers(1, 8),
        priority=st.integers(-1, 1),
        tenant=st.sampled_from("xyz"),
    )
    def add(self, tokens: int, new: int, priority: int, tenant: str) -> None:
        waiting = sum(not each.running for each in self.alive.values())
        if waiting - (SLOTS - len(self.alive) + waiting) >= QUEUE:
            return
        self.count += 1
        name = f"r{self.count}"
        prompt = tuple(range(1000 * self.count, 1000 * self.count + tokens))
        one = Sequence(name, prompt, new, priority=priority, tenant=tenant)
        present = {each.tenant for each in self.alive.values()}
        if tenant not in present:
            least = min((self.served[each] for each in present), default=0)
            self.served[tenant] = max(self.served.get(tenant, 0), least)
        self.scheduler.add(one)
        self.sequences[name] = one
        self.alive[name] = Expected(self.count, priority, tenant)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(self.alive)))
        assert self.scheduler.cancel(name) is self.sequences[name]
        self.gone(name)

    @rule(ends=st.booleans())
    def step(self, ends: bool) -> None:
        expected = self.admissions()
        assert names(self.scheduler.admit()) == expected
        for name, each in self.alive.items():
            one = self.sequences[name]
            assert (one.slot is not None) == each.running
            assert one.preempted == each.preempted <= MAX_PREEMPTIONS
            assert each.overtaken <= MAX_OVERTAKEN
        step = self.scheduler.schedule()
        if step is None:
            assert not self.alive
            return
        chunk = len(step.prefill.tokens) if step.prefill is not None else 0
        decoding = {s.slot for s in self.sequences.values() if s.status is Status.DECODING}
        assert {row.slot for row in step.decode} == decoding
        assert chunk <= CHUNK and len(step.decode) + chunk <= BUDGET
        for slot, tokens in [
            *((row.slot, 1) for row in step.decode),
            *([(step.prefill.slot, chunk)] if step.prefill is not None else []),
        ]:
            (owner,) = (name for name, s in self.sequences.items() if s.slot == slot)
            self.served[self.alive[owner].tenant] += tokens
        rows = self.scheduler.sequences(step)
        done = {s.id for s in rows if ends or len(s.output) + 1 == s.max_new_tokens}
        tokens = [50 + len(s.output) for s in rows]
        self.scheduler.update(step, tokens, done)
        for one in rows:
            assert one.output == list(range(50, 50 + len(one.output)))
        for name in sorted(done):
            self.gone(name)

    def gone(self, name: str) -> None:
        del self.alive[name], self.sequences[name]
        if not self.alive:
            self.served.clear()

    def admissions(self) -> list[str]:
        """Return who is admitted for the first time now, and note who runs afterwards."""
        first_time: list[str] = []
        just: set[str] = set()
        while waiting := [name for name, e in self.alive.items() if not e.running]:
            best = waiting[0]
            for name in waiting[1:]:
                if self.goes_before(self.alive[name], self.alive[best]):
                    best = name
            running = [name for name, e in self.alive.items() if e.running]
            if len(running) == SLOTS:
                weaker = [
                    name
                    for name in running
                    if self.alive[name].priority < self.alive[best].priority
                    and self.alive[name].preempted < MAX_PREEMPTIONS
                    and name not in just
                ]
                if not weaker:
                    break
                lowest = min(self.alive[name].priority for name in weaker)
                victim = [n for n in weaker if self.alive[n].priority == lowest][-1]
                self.alive[victim].running = False
                self.alive[victim].preempted += 1
            chosen = self.alive[best]
            chosen.running, chosen.overtaken = True, 0
            just.add(best)
            if not chosen.preempted:
                first_time.append(best)
            for each in self.alive.values():
                if not each.running and each.arrival < chosen.arrival:
                    each.overtaken += 1
        return first_time

    def goes_before(self, one: Expected, other: Expected) -> bool:
        """Whether `one`, which arrived later, goes before the other all the same."""
        if one.overtaken >= MAX_OVERTAKEN or other.overtaken >= MAX_OVERTAKEN:
            return other.overtaken < MAX_OVERTAKEN
        if one.priority != other.priority:
            return one.priority > other.priority
        return self.served[one.tenant] < self.served[other.tenant]

    @invariant()
    def slots_and_queues_agree(self) -> None:
        self.scheduler.check()
        assert self.scheduler.preemptions >= sum(e.preempted for e in self.alive.values())

    def teardown(self) -> None:
        """Every sequence ends within the steps its tokens need."""
        for _ in range(1000):
            self.scheduler.admit()
            if not self.scheduler.has_work:
                break
            step_once(self.scheduler)
        self.scheduler.check()
        assert not self.scheduler.has_work
        assert self.scheduler.num_free_slots == SLOTS


OrderMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
test_order_in_any_order_of_calls = OrderMachine.TestCase
