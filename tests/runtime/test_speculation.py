"""Guessed tokens: what is guessed, when it pays, and that no answer changes by it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
from history_engine import CAPACITY, CHUNK, VOCAB, HistoryBackend, byte_codec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgellama.profiles.profile import Limits
from edgellama.runtime.completion import Collector
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import Delta, End, Event, FinishReason
from edgellama.runtime.guide import Guide
from edgellama.runtime.prompt_lookup import PromptLookup
from edgellama.runtime.request import Request, Sampling, Stop
from edgellama.runtime.scheduler import Scheduler
from edgellama.runtime.sequence import Sequence, Status
from edgellama.runtime.speculation import SIZES, Speculation


def guess(tokens: list[int], most: int = 8) -> list[int]:
    lookup = PromptLookup()
    lookup.extend(tuple(tokens))
    return list(lookup.guess(most))


def test_what_followed_the_same_tokens_is_guessed() -> None:
    assert guess([1, 2, 3, 4, 5, 9, 1, 2], 3) == [3, 4, 5]
    # The longest repetition counts, and of equal ones the last.
    assert guess([7, 1, 2, 50, 8, 1, 2, 60, 7, 1, 2], 1) == [50]
    assert guess([1, 2, 50, 1, 2, 60, 1, 2], 1) == [60]
    # One token alone is no repetition.
    assert guess([1, 2, 3, 1]) == []
    assert guess([]) == guess([1]) == guess([1, 1]) == []


def test_what_repeats_goes_on_repeating() -> None:
    assert guess([5, 6, 7, 5, 6, 7, 5, 6], 7) == [7, 5, 6, 7, 5, 6, 7]
    assert guess([4, 4, 4], 5) == [4] * 5


@given(st.lists(st.integers(0, 3), max_size=40), st.data())
def test_the_index_equals_a_search(tokens: list[int], data: st.DataObject) -> None:
    lookup = PromptLookup()
    fed = 0
    while fed < len(tokens):  # it grows in any pieces
        more = data.draw(st.integers(1, len(tokens) - fed))
        lookup.extend(tuple(tokens[fed : fed + more]))
        fed += more
    expected: list[int] = []
    for length in (4, 3, 2):
        tail = tokens[len(tokens) - length :]
        starts = [i + length for i in range(len(tokens) - length) if tokens[i : i + length] == tail]
        if len(tail) == length and starts:
            expected = tokens[starts[-1] :]
            break
    found = list(lookup.guess(len(expected)))
    assert found == expected


# What a step of a row and so many guesses takes: the weights, and a part for each token.
def seconds(drafted: int, token: float) -> float:
    return 0.1 + token * (1 + drafted)


def trained(token: float, draft_tokens: int = 31) -> Speculation:
    speculation = Speculation(draft_tokens)
    for size in (0, *SIZES):
        for _ in range(3):
            speculation.record(size, seconds(size, token))
    return speculation


def periodic(new: int = 100) -> Sequence:
    return Sequence("a", (1, 2, 3, 4) * 6, new, output=[1])


def test_guesses_are_as_many_as_their_tokens_per_second_are_the_most() -> None:
    # Of 0.7 right each: 1.7, 2.53, 3.14, 3.32 and 3.33 tokens for 1, 3, 7, 15 and 31 guesses.
    assert len(trained(token=0.0).draft(periodic())) == 31
    assert len(trained(token=0.001).draft(periodic())) == 7
    assert len(trained(token=0.01).draft(periodic())) == 3
    assert len(trained(token=0.3).draft(periodic())) == 0
    assert trained(token=0.0).draft(periodic())[:5] == (2, 3, 4, 1, 2)


def test_the_bound_and_what_is_left_of_the_answer_limit_the_guesses() -> None:
    assert len(trained(0.0, draft_tokens=7).draft(periodic())) == 7
    assert len(trained(0.0, draft_tokens=6).draft(periodic())) == 3
    # 5 tokens, one is out: the run itself draws one more behind its guesses.
    assert len(trained(0.0).draft(periodic(new=5))) == 3
    assert trained(0.0).draft(periodic(new=2)) == ()


def test_bad_guesses_end_guessing_and_are_forgiven_slowly() -> None:
    speculation, sequence = trained(token=0.02), periodic(10_000)
    bad = 0
    while drafted := speculation.draft(sequence):
        speculation.take(sequence, len(drafted), 0)
        bad += 1
    assert 2 <= bad <= 20
    took = 0.0
    for _ in range(2000):
        drafted = speculation.draft(sequence)
        if drafted:
            speculation.take(sequence, len(drafted), 0)
        took += seconds(len(drafted), token=0.02)
    assert 1.001 < took / (2000 * seconds(0, token=0.02)) < 1.015
    speculation.forget(sequence)
    assert speculation.draft(sequence), "a new one is supposed to be good"


def test_unknown_sizes_are_tried_twice_each_the_smaller_first() -> None:
    speculation, sequence = Speculation(7), periodic(10_000)
    sizes = []
    for _ in range(9):
        drafted = len(speculation.draft(sequence))
        sizes.append(drafted)
        speculation.record(drafted, seconds(drafted, token=0.0))
    assert sizes == [0, 0, 1, 1, 3, 3, 7, 7, 7]


def test_a_draft_has_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="draft_tokens is 0; it must be >= 1"):
        Speculation(0)


def test_a_pinned_sequence_is_computed_in_rows() -> None:
    for is_pinned in (False, True):
        scheduler = Scheduler(1, 200, 50, 8, speculation=trained(token=0.0))
        one = Sequence("a", (1, 2, 3, 4) * 6, 50, is_pinned=is_pinned)
        scheduler.add(one)
        scheduler.admit()
        step = scheduler.schedule()
        assert step is not None
        scheduler.update(step, [1], set())
        step = scheduler.schedule()
        assert step is not None and bool(step.draft) is not is_pinned


class DraftMachine(RuleBasedStateMachine):
    """Requests come and go in any order, and any number of their guesses is right."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(2, 60, 8, 4, preempt=True, speculation=trained(token=0.0))
        self.alive: dict[str, Sequence] = {}
        self.count = 0

    @precondition(lambda self: len(self.alive) < 6)
    @rule(prompt=st.integers(1, 30), new=st.integers(1, 30), priority=st.integers(0, 1))
    def add(self, prompt: int, new: int, priority: int) -> None:
        self.count += 1
        tokens = tuple(range(4)) * 8
        one = Sequence(f"r{self.count}", tokens[:prompt], new, priority=priority)
        self.scheduler.add(one)
        self.alive[one.id] = one

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(self.alive)))
        self.scheduler.cancel(name)
        del self.alive[name]

    @rule(right=st.integers(0, 31), ends=st.booleans())
    def step(self, right: int, ends: bool) -> None:
        self.scheduler.admit()
        step = self.scheduler.schedule()
        if step is None:
            assert not self.alive
            return
        owners = self.scheduler.sequences(step)
        choice = self.scheduler.choice(step)
        assert choice.drafted == len(step.draft)
        assert choice.tokens == len(step.decode) + len(step.draft) + (
            len(step.prefill.tokens) if step.prefill else 0
        )
        if not step.draft:
            tokens = [one.length % 4 for one in owners]
        else:
            (row,), (one,) = step.decode, owners
            assert step.prefill is None and step.num_logits == 1 + len(row.draft)
            assert row.position == one.computed == one.length - 1
            accepted = min(right, len(row.draft))
            tokens = [*row.draft[:accepted], 9]
            assert len(one.output) + len(row.draft) + 1 <= one.max_new_tokens
            before = one.computed
        drawn = 1 if not step.draft else len(tokens)
        done = {o.id for o in owners if len(o.output) + drawn == o.max_new_tokens or ends}
        self.scheduler.update(step, tokens, done)
        self.scheduler.record(step, 1.0)
        if step.draft and not done:
            assert one.computed == before + len(tokens) and one.output[-len(tokens) :] == tokens
        for name in done:
            del self.alive[name]

    @invariant()
    def slots_and_sequences_agree(self) -> None:
        self.scheduler.check()
        for one in self.alive.values():
            if one.status is Status.DECODING:
                assert one.computed == one.length - 1

    def teardown(self) -> None:
        for _ in range(1000):
            if not self.scheduler.has_work:
                break
            self.step(3, ends=False)
        assert not self.alive
        speculation = self.scheduler.speculation
        assert speculation is not None and not speculation._guesses, "all are forgotten"


TestDrafts = DraftMachine.TestCase
TestDrafts.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class RepeatingBackend(HistoryBackend):
    """The next token leans to what followed the last two: answers repeat themselves."""

    def _feed(self, slot: int, tokens: tuple[int, ...], start: int) -> npt.NDArray[np.float64]:
        end = start + len(tokens)
        self._cache[slot, start:end] = tokens
        every = np.random.default_rng(self._cache[slot, :end]).standard_normal(VOCAB)
        few = np.random.default_rng(self._cache[slot, max(0, end - 2) : end]).standard_normal(VOCAB)
        few[64:72] += 5.0
        few[257] += 2.0
        return every * 0.3 + few * 2.0


@pytest.fixture
def make() -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def build(slots: int = 1, draft_tokens: int | None = 7) -> Engine:
        limits = Limits(slots, CAPACITY, CHUNK, 64, draft_tokens=draft_tokens)
        engines.append(Engine(RepeatingBackend(slots), byte_codec(), limits))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


def free_guesses(engine: Engine) -> None:
    """Let guesses cost nothing, so that they are always worth it."""
    speculation = engine._loop._scheduler.speculation
    assert speculation is not None

    def record(drafted: int, seconds: float) -> None:
        Speculation.record(speculation, drafted, 1.0)

    speculation.record = record  # type: ignore[method-assign]


def requests(count: int) -> list[Request]:
    draw = random.Random(4)
    return [
        Request(
            tuple(draw.choices(range(64, 72), k=draw.randint(1, 40))),
            Sampling(
                temperature=(0.0, 0.7, 1.0)[i % 3],
                seed=i,
                repetition_penalty=(1.0, 1.1)[i % 2],
                top_p=(1.0, 0.9)[i // 2 % 2],
                bad_token_ids=((66,),) if i % 5 == 0 else (),
            ),
            Stop(
                max_new_tokens=draw.randint(1, 50),
                min_new_tokens=i % 2,
                strings=("AB",) if i % 4 == 0 else (),
            ),
            top_logprobs=(None, 2)[i % 2],
            n=1 + (i % 7 == 0),
        )
        for i in range(count)
    ]


def test_every_answer_is_the_one_without_guesses(make: Callable[..., Engine]) -> None:
    plain, engine = make(slots=2, draft_tokens=None), make(slots=2)
    free_guesses(engine)
    for each in requests(60):
        expected = plain.generate(each)
        got = engine.generate(each)
        assert got.outputs == expected.outputs
    stats = engine.stats()
    assert stats.accepted_tokens > 200, "else nothing was proved"
    assert stats.drafted_tokens > stats.accepted_tokens + 100
    assert stats.steps < plain.stats().steps - 150
    assert stats.output_tokens == plain.stats().output_tokens
    records = engine.steps()
    assert sum(each.choice.drafted for each in records) == stats.drafted_tokens
    assert sum(each.accepted for each in records) == stats.accepted_tokens
    assert all(len(each.choice.rows) == 1 for each in records if each.choice.drafted)


def test_with_other_rows_or_a_chunk_there_are_no_guesses(make: Callable[..., Engine]) -> None:
    engine = make(slots=3)
    free_guesses(engine)
    collectors = []
    for each in requests(30):
        collectors.append(Collector())
        engine.submit(each, collectors[-1])
    plain = make(slots=1 + 1, draft_tokens=None)
    for each, collector in zip(requests(30), collectors, strict=True):
        expected = plain.generate(each)
        assert [o.token_ids for o in collector.result().outputs] == [
            o.token_ids for o in expected.outputs
        ]
    for record in engine.steps():
        if record.choice.drafted:
            assert len(record.choice.rows) == 1 and record.choice.chunk is None


def test_each_token_has_an_event_of_its_own(make: Callable[..., Engine]) -> None:
    engine, events = make(), list[Event]()
    free_guesses(engine)
    collector = Collector()

    def listen(event: Event) -> None:
        events.append(event)
        collector(event)

    ask = Request((65, 66, 67) * 8, Sampling(temperature=0.0), Stop(max_new_tokens=40))
    for _ in range(3):
        events.clear()
        collector = Collector()
        engine.submit(ask, listen)
        done = collector.result()
        deltas = [event for event in events if isinstance(event, Delta)]
        assert [delta.token_offset for delta in deltas] == list(range(len(done.token_ids)))
        assert all(len(delta.token_ids) == 1 for delta in deltas)
        assert deltas[-1] is events[-2], "the End comes last"
    assert engine.stats().accepted_tokens > 0


def test_a_guide_is_kept_by_guesses(make: Callable[..., Engine]) -> None:
    ask = Request(
        (65, 66) * 8,
        Sampling(temperature=0.0),
        Stop(max_new_tokens=60),
        guide=Guide(regex="(AB|CD){4,20}E"),
    )
    plain, engine = make(draft_tokens=None), make()
    free_guesses(engine)
    expected, got = plain.generate(ask), [engine.generate(ask) for _ in range(3)]
    assert {done.token_ids for done in got} == {expected.token_ids}
    assert engine.stats().accepted_tokens > 0


def test_a_row_that_fails_among_its_guesses_fails_alone(make: Callable[..., Engine]) -> None:
    engine = make()
    free_guesses(engine)
    ask = Request((65, 66, 67) * 8, Sampling(temperature=0.0), Stop(max_new_tokens=40))
    first, *_ = (engine.generate(ask) for _ in range(3))
    backend = engine._backend
    assert isinstance(backend, RepeatingBackend)
    wrapped = backend._feed

    def broken(slot: int, tokens: tuple[int, ...], start: int) -> npt.NDArray[np.float64]:
        logits = wrapped(slot, tokens, start)
        return logits * np.nan if start + len(tokens) > 40 else logits

    backend._feed = broken  # type: ignore[method-assign]
    events: list[Event] = []
    ended = threading.Event()

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, End):
            ended.set()

    engine.submit(ask, listen)
    assert ended.wait(5.0)
    assert isinstance(events[-1], End) and events[-1].reason is FinishReason.ERROR
    drawn = [event.token_ids[0] for event in events if isinstance(event, Delta)]
    assert tuple(drawn) == first.token_ids[:17]
    backend._feed = wrapped  # type: ignore[method-assign]
    assert engine.generate(ask).token_ids == first.token_ids
    assert engine.stats().free_slots == 1
