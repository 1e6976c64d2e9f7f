"""The engine over a deterministic backend: events, stop rules, batching, cancellation, failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import count

import numpy as np
import numpy.typing as npt
import pytest

from edgellama.profiles.profile import Limits
from edgellama.runtime.completion import Collector, Completion
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import Admission, Delta, End, Event, FinishReason
from edgellama.runtime.manifest import EngineError
from edgellama.runtime.request import (
    DrainingError,
    EngineFailedError,
    InvalidRequestError,
    QueueFullError,
    Request,
    Sampling,
    Stop,
)
from edgellama.runtime.step import Step
from edgellama.runtime.step_record import ChunkRecord, Stall

VOCAB, CAPACITY, CHUNK = 32, 40, 4
GREEDY = Sampling(temperature=0.0)
WAIT = 5.0


class HistoryBackend:
    """A model whose next token depends on the whole history of its slot.

    It keeps the fed tokens of each slot as a KV pool would: a wrong slot, position, chunk or order
    changes every later token. `gate` lets a test hold it before a step.
    """

    def __init__(self, slots: int = 4) -> None:
        self.slots, self.capacity, self.vocab_size = slots, CAPACITY, VOCAB
        self.gate = threading.Event()
        self.gate.set()
        self.steps: list[Step] = []
        self.run_seconds = 0.0
        self.fault: Exception | None = None
        self.poison: int | None = None  # prompts that begin with it get NaN
        self.closed = 0
        self._cache = [[-1] * CAPACITY for _ in range(slots)]

    def run(self, step: Step) -> npt.NDArray[np.float32]:
        assert self.gate.wait(WAIT)
        self.steps.append(step)
        if self.fault is not None:
            raise self.fault
        for copy in step.copies:
            self._cache[copy.target][: copy.length] = self._cache[copy.source][: copy.length]
        logits = np.empty((step.num_logits, VOCAB), np.float32)
        for r, row in enumerate(step.decode):
            logits[r] = self._feed(row.slot, (row.token,), row.position)
        if step.prefill is not None:
            chunk = step.prefill
            last = self._feed(chunk.slot, chunk.tokens, chunk.start)
            if chunk.is_last:
                logits[len(step.decode)] = last
        return logits

    def _feed(self, slot: int, tokens: tuple[int, ...], start: int) -> npt.NDArray[np.float32]:
        end = start + len(tokens)
        self._cache[slot][start:end] = tokens
        seed = [token + 1 for token in self._cache[slot][:end]]
        logits = np.random.default_rng(seed).standard_normal(VOCAB).astype(np.float32)
        return logits * np.nan if self._cache[slot][0] == self.poison else logits

    def close(self) -> None:
        self.closed += 1


def letter(token: int) -> str:
    return chr(ord("A") + token)


class LetterDecoder:
    """One letter a token; holds back what may become a stop string."""

    def __init__(self, stop: Stop, broken_at: int | None) -> None:
        self.matched: str | None = None
        self._strings = stop.strings
        self._held = ""
        self._broken_at = broken_at

    def push(self, token_id: int) -> str:
        if token_id == self._broken_at:
            raise RuntimeError("decoder broke")
        self._held += letter(token_id)
        for string in self._strings:
            if string in self._held:
                self.matched = string
                return self._held[: self._held.index(string)]
        keep = max(
            (n for s in self._strings for n in range(len(s)) if self._held.endswith(s[:n])),
            default=0,
        )
        out, self._held = self._held[: len(self._held) - keep], self._held[-keep:] * (keep > 0)
        return out

    def finish(self) -> str:
        return self._held


@dataclass
class Generation:
    stop_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    default_sampling: Sampling = GREEDY


@dataclass
class LetterCodec:
    """Tokens are letters; `stop_ids` are the model's."""

    generation: Generation = field(default_factory=Generation)
    broken_at: int | None = None
    refuse: bool = False
    vocab_size: int = VOCAB

    def stream(
        self, prompt_ids: tuple[int, ...], stop: Stop, *, skip_special_tokens: bool
    ) -> LetterDecoder:
        if self.refuse:
            raise RuntimeError("no decoder")
        return LetterDecoder(stop, self.broken_at)


@pytest.fixture
def make() -> Iterator[Callable[..., Engine]]:
    """Make engines that are closed after the test; the backend is `engine._backend`."""
    engines: list[Engine] = []

    def make_engine(
        slots: int = 4,
        max_queue: int = 64,
        codec: LetterCodec | None = None,
        step_tokens: int | None = None,
        preempt: bool = False,
        greedy_form: str = "fastest",
    ) -> Engine:
        limits = Limits(slots, CAPACITY, CHUNK, max_queue, step_tokens)
        options = {"preempt": preempt, "greedy_form": greedy_form}
        engines.append(Engine(HistoryBackend(slots), codec or LetterCodec(), limits, **options))
        return engines[-1]

    yield make_engine
    for engine in engines:
        engine._backend.gate.set()
        engine.close()
        assert not engine._loop._thread.is_alive()


class Recorder(Collector):
    """Keeps the raw events too."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.admitted = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Admission):
            self.admitted.set()
        super().__call__(event)

    def end(self) -> End:
        assert self._ended.wait(WAIT), "no End"
        return self._ends[-1]


def request(length: int = 3, new: int | None = 6, **stop: object) -> Request:
    prompt = tuple((7 * i + length) % VOCAB for i in range(length))
    return Request(prompt, GREEDY, Stop(max_new_tokens=new, **stop))  # type: ignore[arg-type]


def test_events_of_one_request(make: Callable[..., Engine]) -> None:
    engine, recorder = make(), Recorder()
    began = time.perf_counter()
    request_id = engine.submit(request(9, 5), recorder)
    end = recorder.end()
    admission, *deltas, last = recorder.events
    assert isinstance(admission, Admission) and last is end
    assert admission.request_id == request_id and len(request_id) == 32
    assert (admission.prompt_tokens, admission.max_new_tokens) == (9, 5)
    assert all(isinstance(delta, Delta) and len(delta.token_ids) == 1 for delta in deltas)
    assert [delta.token_offset for delta in deltas] == [0, 1, 2, 3, 4]
    assert end.reason is FinishReason.MAX_TOKENS and end.match is None and end.error is None
    assert (end.usage.prompt_tokens, end.usage.output_tokens) == (9, 5)
    timing = end.timing
    assert 0 <= timing.queue == admission.queue_seconds <= timing.first_token <= timing.total
    assert len(engine._backend.steps) == 3 + 4  # three chunks, then a step a token
    stats = engine.stats()
    assert (stats.steps, stats.prompt_tokens, stats.output_tokens) == (7, 9, 5)
    assert (stats.running, stats.waiting, stats.free_slots) == (0, 0, 4)
    parts = asdict(stats.seconds)
    assert all(seconds > 0 for seconds in parts.values()), parts
    assert sum(parts.values()) <= time.perf_counter() - began, "the parts are of one thread"


def mixed_requests(count: int) -> list[Request]:
    rng = np.random.default_rng(0)
    return [
        Request(
            prompt_ids=tuple(rng.integers(0, VOCAB, rng.integers(1, 20)).tolist()),
            sampling=Sampling(
                temperature=float(rng.choice([0.0, 0.8, 1.5])),
                top_k=int(rng.choice([0, 5])),
                top_p=float(rng.choice([1.0, 0.9])),
                repetition_penalty=float(rng.choice([1.0, 1.2])),
                seed=int(i),
            ),
            stop=Stop(max_new_tokens=int(rng.integers(1, 20))),
            top_logprobs=[None, 0, 2][i % 3],
            request_id=f"r{i}",
        )
        for i in range(count)
    ]


def test_concurrent_requests_equal_their_solo_runs(make: Callable[..., Engine]) -> None:
    requests = mixed_requests(24)
    solo = [make(slots=1).generate(one) for one in requests]
    engine, recorders = make(slots=4), [Recorder() for _ in requests]
    engine._backend.gate.clear()  # all are there before the first step ends
    threads = [
        threading.Thread(target=engine.submit, args=pair)
        for pair in zip(requests, recorders, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine._backend.gate.set()
    for expected, recorder in zip(solo, recorders, strict=True):
        result = recorder.result()
        assert replace(result, timing=expected.timing) == expected
        assert len(result.logprobs) in (0, len(result.token_ids))
    assert max(len(step.decode) for step in engine._backend.steps) == 4
    assert any(step.decode and step.prefill for step in engine._backend.steps)
    assert engine.stats().output_tokens == sum(len(one.token_ids) for one in solo)


def test_a_prompt_that_was_there_before_is_not_computed(make: Callable[..., Engine]) -> None:
    engine = make(slots=2)
    first = engine.generate(request(20, 4))
    again = engine.generate(request(20, 4))
    assert (first.usage.cached_prompt_tokens, again.usage.cached_prompt_tokens) == (0, 19)
    assert again.token_ids == first.token_ids
    longer = Request((*request(20).prompt_ids, *first.token_ids, 5), GREEDY, Stop(max_new_tokens=4))
    # All of both but the last token drawn, which was never fed.
    assert engine.generate(longer).usage.cached_prompt_tokens == 20 + 3
    salted = engine.generate(replace(request(20, 4), cache_salt="tenant"))
    assert salted == replace(first, timing=salted.timing)
    stats = engine.stats()
    assert (stats.prompt_tokens, stats.cached_prompt_tokens) == (20 + 1 + 2 + 20, 19 + 23)


def test_greedy_requests_are_pinned_and_share_with_their_like(make: Callable[..., Engine]) -> None:
    """The first form computes them, and of a prefix only what it computed in chunks is taken."""
    engine = make(slots=6, greedy_form="first")
    greedy = request(20, 4)
    sampled = replace(greedy, sampling=Sampling(temperature=0.7, seed=1))
    longer = Request((*greedy.prompt_ids, *engine.generate(greedy).token_ids, 5), GREEDY)
    sampled_salt = replace(sampled, cache_salt="first:")  # what the pinned might be told by
    cached = [
        engine.generate(replace(each, stop=Stop(max_new_tokens=4))).usage.cached_prompt_tokens
        for each in (sampled, sampled_salt, greedy, longer, sampled)
    ]
    assert cached == [0, 0, 19, 20, 19]
    pinned = {True: 0, False: 0}
    for step in engine._backend.steps:
        for row in step.decode:
            pinned[row.is_pinned] += 1
        if step.prefill is not None:
            pinned[step.prefill.is_pinned] += len(step.prefill.tokens)
    assert pinned == {True: (20 + 3) + (1 + 3) + (5 + 3), False: 2 * (20 + 3) + (1 + 3)}
    plain = make()
    plain.generate(greedy)
    assert not any(step.has_pinned for step in plain._backend.steps)


def test_prompts_that_share_a_beginning_equal_their_solo_runs(make: Callable[..., Engine]) -> None:
    draw = np.random.default_rng(1)
    families = [tuple(draw.integers(0, VOCAB, 24).tolist()) for _ in range(2)]
    requests = [
        Request(
            (*families[i % 2][: draw.integers(17, 25)], *draw.integers(0, VOCAB, 3).tolist()),
            Sampling(temperature=0.8, seed=i),
            Stop(max_new_tokens=int(draw.integers(1, 12))),
            request_id=f"r{i}",
            cache_salt=("", "tenant")[i % 3 == 0],
        )
        for i in range(40)
    ]
    solo = [make(slots=1).generate(one) for one in requests]
    engine, recorders = make(slots=3), [Recorder() for _ in requests]
    for one, recorder in zip(requests, recorders, strict=True):
        engine.submit(one, recorder)
    cached = 0
    for expected, recorder in zip(solo, recorders, strict=True):
        result = recorder.result()
        cached += result.usage.cached_prompt_tokens
        assert result == replace(expected, timing=result.timing, usage=result.usage)
    assert cached == engine.stats().cached_prompt_tokens > 100
    assert any(step.copies for step in engine._backend.steps)


def test_requests_that_lose_their_slots_equal_their_solo_runs(make: Callable[..., Engine]) -> None:
    draw = np.random.default_rng(2)
    requests = [
        Request(
            tuple(draw.integers(0, VOCAB, draw.integers(1, 20)).tolist()),
            Sampling(temperature=0.8, seed=i, repetition_penalty=1.2),
            Stop(max_new_tokens=int(draw.integers(1, 20))),
            request_id=f"r{i}",
            priority=i // 8 - 2,  # the later the more urgent
            tenant="xyz"[i % 3],
        )
        for i in range(40)
    ]
    solo = [make(slots=1).generate(one) for one in requests]
    engine = make(slots=3, step_tokens=5, preempt=True)
    coming, recorders, deltas = list(requests), [Recorder() for _ in requests], count(1)

    def submit_next() -> None:
        """Submit from the engine's own thread, so that requests come at the same steps always."""
        if coming:
            recorder = recorders[len(requests) - len(coming)]

            def listen(event: Event) -> None:
                recorder(event)
                if isinstance(event, End) or (isinstance(event, Delta) and next(deltas) % 4 == 0):
                    submit_next()

            engine.submit(coming.pop(0), listen)

    submit_next()
    for expected, recorder in zip(solo, recorders, strict=True):
        recorder.end()
        result = recorder.result()
        assert result == replace(expected, timing=result.timing, usage=result.usage)
        assert sum(isinstance(event, Admission) for event in recorder.events) == 1
    stats = engine.stats()
    assert stats.preemptions > 0
    assert stats.output_tokens == sum(len(one.token_ids) for one in solo)
    steps = engine._backend.steps
    assert max(len(s.decode) + len(s.prefill.tokens if s.prefill else ()) for s in steps) <= 5


def test_the_greater_priority_starts_first(make: Callable[..., Engine]) -> None:
    engine, recorders = make(slots=1), {}
    engine._backend.gate.clear()
    first = Recorder()
    engine.submit(request(3, 4), first)
    assert first.admitted.wait(WAIT)
    for priority in (0, 2, 1):
        recorders[priority] = Recorder()
        engine.submit(replace(request(3, 4), priority=priority), recorders[priority])
    engine._backend.gate.set()
    waits = {priority: recorder.end().timing.queue for priority, recorder in recorders.items()}
    assert waits[2] < waits[1] < waits[0]
    assert engine.stats().preemptions == 0


def test_steps_are_remembered(make: Callable[..., Engine]) -> None:
    engine, first, second = make(slots=1, step_tokens=3), Recorder(), Recorder()
    engine._backend.gate.clear()
    a = engine.submit(replace(request(5, 2), request_id="a"), first)
    b = engine.submit(replace(request(2, 1), request_id="b"), second)
    engine._backend.gate.set()
    second.end()
    until = time.monotonic() + WAIT
    while len(engine.steps()) < 4 and time.monotonic() < until:
        time.sleep(0.001)  # a step is remembered behind its last event
    steps = engine.steps()
    assert [step.index for step in steps] == [0, 1, 2, 3]
    chunks = [step.choice.chunk for step in steps]
    assert chunks == [
        ChunkRecord(a, 0, 0, 3),
        ChunkRecord(a, 0, 3, 2),
        None,
        ChunkRecord(b, 0, 0, 2),
    ]
    assert [step.choice.rows for step in steps] == [(), (), ((0, a),), ()]
    assert [step.admitted for step in steps] == [1, 0, 0, 1]
    assert [step.finished for step in steps] == [0, 0, 1, 1]
    assert Stall.STEP_TOKENS in steps[0].choice.stalls
    assert Stall.STEP_TOKENS not in steps[1].choice.stalls
    assert [Stall.NO_SLOT in step.choice.stalls for step in steps[1:]] == [True, True, False]
    ends = [step.began + step.parts.total for step in steps]
    assert all(end <= step.began for end, step in zip(ends, steps[1:], strict=False))
    assert sum(step.parts.backend for step in steps) == pytest.approx(
        engine.stats().seconds.backend
    )


def test_a_step_says_whose_chunk_others_wait_for(make: Callable[..., Engine]) -> None:
    engine, recorders = make(slots=2), [Recorder(), Recorder()]
    engine._backend.gate.clear()
    for one, recorder in zip((request(9, 1), request(7, 1)), recorders, strict=True):
        engine.submit(one, recorder)
    assert all(recorder.admitted.wait(WAIT) for recorder in recorders[:1])
    engine._backend.gate.set()
    for recorder in recorders:
        recorder.end()
    stalls = [step.choice.stalls for step in engine.steps()]
    assert (Stall.OTHER_CHUNK,) in stalls


def test_a_request_joins_a_running_one(make: Callable[..., Engine]) -> None:
    engine, first, second = make(slots=2), Recorder(), Recorder()
    engine._backend.gate.clear()
    engine.submit(request(3, 30), first)
    assert first.admitted.wait(WAIT)
    engine.submit(request(3, 2), second)
    engine._backend.gate.set()
    second.end()
    assert first.end().usage.output_tokens == 30
    assert any(len(step.decode) == 2 for step in engine._backend.steps)


def free_run(make: Callable[..., Engine], new: int = 8) -> tuple[int, ...]:
    """Return the tokens that `request(3)` draws when nothing stops it."""
    return make().generate(request(3, new)).token_ids


def test_the_models_stop_id_ends_the_answer(make: Callable[..., Engine]) -> None:
    tokens = free_run(make)
    stop = tokens[3]
    first = tokens.index(stop)
    codec = LetterCodec(Generation(stop_ids=(stop,)))
    result = make(codec=codec).generate(request(3, None))
    assert result.token_ids == tokens[: first + 1]  # the stop id counts, but has no text
    assert result.text == "".join(map(letter, tokens[:first]))
    assert (result.finish_reason, result.match) == (FinishReason.EOS, stop)
    assert result.usage.output_tokens == first + 1
    ignoring = make(codec=codec).generate(request(3, 8, ignore_eos=True))
    assert ignoring.token_ids == tokens
    assert ignoring.text == "".join(map(letter, tokens))
    assert ignoring.finish_reason is FinishReason.MAX_TOKENS


def test_a_stop_id_of_the_request(make: Callable[..., Engine]) -> None:
    tokens = free_run(make)
    result = make().generate(request(3, 8, token_ids=(tokens[2],)))
    assert (result.finish_reason, result.match) == (FinishReason.STOP_TOKEN, tokens[2])
    assert result.token_ids == tokens[: tokens.index(tokens[2]) + 1]


def test_min_new_tokens_bans_every_stop_id(make: Callable[..., Engine]) -> None:
    tokens = free_run(make)
    codec = LetterCodec(Generation(stop_ids=(tokens[0],)))
    stop = {"min_new_tokens": 4, "token_ids": (tokens[1],)}
    result = make(codec=codec).generate(request(3, 30, **stop))
    assert not {tokens[0], tokens[1]} & set(result.token_ids[:4])
    assert len(result.token_ids) >= 4


def test_a_stop_string_cuts_the_text(make: Callable[..., Engine]) -> None:
    tokens = free_run(make)
    string = letter(tokens[3]) + letter(tokens[4])
    recorder = Recorder()
    make().submit(request(3, 8, strings=(string, "never")), recorder)
    result = recorder.result()
    assert (result.finish_reason, result.match) == (FinishReason.STOP_STRING, string)
    assert result.token_ids == tokens[:5]
    assert result.text == "".join(map(letter, tokens[:3]))


def test_held_text_is_flushed_at_the_end(make: Callable[..., Engine]) -> None:
    tokens = free_run(make)
    string = letter(tokens[7]) + "?"  # begins with the last letter, never completes
    recorder = Recorder()
    make().submit(request(3, 8, strings=(string,)), recorder)
    result = recorder.result()
    assert result.text == "".join(map(letter, tokens))
    assert len(recorder.events) == 1 + 8 + 1


def test_a_stop_string_completed_by_the_flush_counts(make: Callable[..., Engine]) -> None:
    class Late(LetterDecoder):
        def finish(self) -> str:
            self.matched = "!"
            return super().finish()

    codec = LetterCodec()
    codec.stream = lambda *_, **__: Late(Stop(), None)  # type: ignore[method-assign]
    result = make(codec=codec).generate(request(3, 4))
    assert (result.finish_reason, result.match) == (FinishReason.STOP_STRING, "!")


def test_a_slot_that_is_full_ends_the_answer(make: Callable[..., Engine]) -> None:
    result = make().generate(request(30, None))
    assert result.finish_reason is FinishReason.CONTEXT_FULL
    assert result.usage.output_tokens == CAPACITY - 30
    asked = make().generate(request(30, CAPACITY - 30))
    assert asked.finish_reason is FinishReason.MAX_TOKENS
    assert asked.token_ids == result.token_ids


@pytest.mark.parametrize(
    ("bad", "name", "message"),
    [
        (Request((1, VOCAB)), "prompt", "token id 32; the vocabulary is \\[0, 32\\)"),
        (Request((-1,)), "prompt", "token id -1"),
        (Request((1,) * CAPACITY), "prompt", "has 40 tokens; at most 39 fit"),
        (request(30, 11), "stop.max_new_tokens", "is 11; .* leaves 10 .* at most 10"),
        (request(30, None, min_new_tokens=11), "stop.min_new_tokens", "is 11; .* leaves 10"),
        (request(3, 3, token_ids=(99,)), "stop.token_ids", "token id 99"),
        (
            Request((1,), Sampling(logit_bias={40: 1.0})),
            "sampling.logit_bias[40]",
            "vocabulary is \\[0, 32\\)",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(
    make: Callable[..., Engine], bad: Request, name: str, message: str
) -> None:
    engine, recorder = make(), Recorder()
    with pytest.raises(InvalidRequestError, match=message) as caught:
        engine.submit(bad, recorder)
    assert caught.value.field == name
    engine.generate(request())
    assert recorder.events == []


def test_an_id_in_use_is_refused_and_free_again_after_the_end(make: Callable[..., Engine]) -> None:
    engine, recorder = make(), Recorder()
    engine._backend.gate.clear()
    engine.submit(replace(request(), request_id="mine"), recorder)
    with pytest.raises(InvalidRequestError, match="'mine' is in use"):
        engine.submit(replace(request(), request_id="mine"), Recorder())
    engine._backend.gate.set()
    recorder.end()
    assert engine.submit(replace(request(), request_id="mine"), Recorder()) == "mine"


def test_a_full_queue_refuses(make: Callable[..., Engine]) -> None:
    engine, recorders = make(slots=2, max_queue=3), [Recorder() for _ in range(5)]
    engine._backend.gate.clear()
    for recorder in recorders:
        engine.submit(request(), recorder)
    with pytest.raises(QueueFullError, match=r"limits\.max_queue is 3"):
        engine.submit(request(), Recorder())
    stats = engine.stats()
    assert stats.running + stats.waiting == 5
    engine._backend.gate.set()
    assert {recorder.end().reason for recorder in recorders} == {FinishReason.MAX_TOKENS}


def test_cancel_frees_the_slot_within_two_steps(make: Callable[..., Engine]) -> None:
    engine, first, second = make(slots=1), Recorder(), Recorder()
    engine._backend.gate.clear()
    first_id = engine.submit(request(3, 30), first)
    engine.submit(request(5, 2), second)
    assert first.admitted.wait(WAIT)
    assert not second.admitted.is_set()
    steps = len(engine._backend.steps)  # the step under way is the first after the cancel
    assert engine.cancel(first_id) and engine.cancel(first_id)
    engine._backend.gate.set()
    assert first.end().reason is FinishReason.CANCELLED
    second.end()
    assert engine._backend.steps[steps + 1].prefill.tokens == request(5).prompt_ids[:CHUNK]
    assert not engine.cancel(first_id)
    assert sum(isinstance(event, End) for event in first.events) == 1


def test_a_waiting_request_can_be_cancelled(make: Callable[..., Engine]) -> None:
    engine, first, second = make(slots=1), Recorder(), Recorder()
    engine._backend.gate.clear()
    engine.submit(request(), first)
    assert first.admitted.wait(WAIT)
    engine.cancel(engine.submit(request(), second))
    engine._backend.gate.set()
    end = second.end()
    assert end.reason is FinishReason.CANCELLED
    assert second.events == [end]
    assert (end.usage.output_tokens, end.timing.first_token) == (0, 0.0)
    assert end.timing.total > 0
    assert first.end().reason is FinishReason.MAX_TOKENS


def test_an_unknown_id_cannot_be_cancelled(make: Callable[..., Engine]) -> None:
    assert not make().cancel("nobody")


def test_cancel_of_an_ended_request_spares_the_next_of_that_id(
    make: Callable[..., Engine],
) -> None:
    engine, recorder = make(), Recorder()
    one = replace(request(3, 1), request_id="mine")

    def listener(event: Event) -> None:
        if isinstance(event, Delta):
            engine.cancel("mine")
        if isinstance(event, End):
            engine.submit(replace(one, stop=Stop(max_new_tokens=9)), recorder)

    engine.submit(one, listener)
    assert recorder.end().usage.output_tokens == 9


def test_generate_spares_the_next_request_of_its_id(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, later = make(), Recorder()
    mine = replace(request(), request_id="mine")

    class Slow(Collector):
        def result(self) -> Completion:
            result = super().result()
            engine._backend.gate.clear()
            engine.submit(mine, later)
            return result

    monkeypatch.setattr("edgellama.runtime.engine.Collector", Slow)
    engine.generate(mine)
    engine._backend.gate.set()
    assert later.end().reason is FinishReason.MAX_TOKENS


def test_an_interrupted_generate_frees_its_slot(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Collector):
        def result(self) -> Completion:
            raise KeyboardInterrupt

    engine = make()
    engine._backend.gate.clear()
    monkeypatch.setattr("edgellama.runtime.engine.Collector", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(request(3, 30))
    engine._backend.gate.set()
    assert engine.drain(WAIT)
    assert engine.stats().output_tokens < 30


def test_a_broken_backend_ends_everyone_and_refuses_the_next(
    make: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    engine, recorders = make(slots=2), [Recorder() for _ in range(4)]
    engine._backend.gate.clear()
    for recorder in recorders:
        engine.submit(request(), recorder)
    engine._backend.fault = RuntimeError("secret pointer 0x7f")
    engine._backend.gate.set()
    for recorder in recorders:
        end = recorder.end()
        assert end.reason is FinishReason.ERROR
        assert end.error is not None and "secret" not in end.error
        assert sum(isinstance(event, End) for event in recorder.events) == 1
    assert "secret pointer" in caplog.text
    with pytest.raises(EngineFailedError):
        engine.submit(request(), Recorder())
    assert engine.stats().running == engine.stats().waiting == 0
    assert engine.drain(WAIT)


def test_generate_raises_when_the_engine_fails(make: Callable[..., Engine]) -> None:
    engine = make()
    engine._backend.fault = RuntimeError("boom")
    with pytest.raises(EngineFailedError, match="failed in a step"):
        engine.generate(request())


def test_logits_that_are_no_numbers_end_their_request_only(make: Callable[..., Engine]) -> None:
    engine, bad, good = make(slots=2), Recorder(), Recorder()
    expected = make().generate(request(5, 20))
    engine._backend.gate.clear()
    engine._backend.poison = request(3).prompt_ids[0]
    engine.submit(request(3, 20), bad)
    engine.submit(request(5, 20), good)
    engine._backend.gate.set()
    assert bad.end().reason is FinishReason.ERROR
    assert good.result().token_ids == expected.token_ids
    assert engine.generate(request(5, 20)).token_ids == expected.token_ids


@pytest.mark.parametrize("codec", [LetterCodec(broken_at=0), LetterCodec(refuse=True)])
def test_a_broken_decoder_ends_its_request_only(
    make: Callable[..., Engine], codec: LetterCodec
) -> None:
    engine, bad, good = make(slots=2, codec=codec), Recorder(), Recorder()
    only = Sampling(temperature=0.0, logit_bias={0: 1000.0})
    engine.submit(Request((1, 2), only, Stop(max_new_tokens=5)), bad)
    end = bad.end()
    assert end.reason is FinishReason.ERROR and end.error is not None
    assert "broke" not in end.error and "decoder" not in end.error
    codec.refuse = False
    never = Sampling(temperature=0.0, logit_bias={0: -1000.0})
    engine.submit(Request((1, 2), never, Stop(max_new_tokens=5)), good)
    assert good.end().reason is FinishReason.MAX_TOKENS
    assert engine.stats().free_slots == 2


@pytest.mark.parametrize("kind", [Admission, Delta, End])
def test_a_listener_that_raises_is_cancelled_alone(
    make: Callable[..., Engine], caplog: pytest.LogCaptureFixture, kind: type[Event]
) -> None:
    engine, good = make(slots=2), Recorder()
    seen: list[Event] = []

    def bad(event: Event) -> None:
        seen.append(event)
        if isinstance(event, kind):
            raise RuntimeError("listener broke")

    expected = make().generate(request(5, 20))
    engine._backend.gate.clear()
    bad_id = engine.submit(request(3, 20), bad)
    engine.submit(request(5, 20), good)
    engine._backend.gate.set()
    assert good.result().token_ids == expected.token_ids
    assert engine.drain(WAIT)
    assert bad_id in caplog.text and "listener broke" in caplog.text
    assert isinstance(seen[-1], End) and sum(isinstance(event, End) for event in seen) == 1
    if kind is not End:
        assert seen[-1].reason is FinishReason.CANCELLED
        assert sum(isinstance(event, kind) for event in seen) == 1


def test_drain_finishes_what_runs_and_refuses_the_rest(make: Callable[..., Engine]) -> None:
    engine, running, waiting = make(slots=1), Recorder(), Recorder()
    engine._backend.gate.clear()
    engine.submit(request(3, 9), running)
    engine.submit(request(3, 9), waiting)
    assert not engine.drain(0.01)
    with pytest.raises(DrainingError):
        engine.submit(request(), Recorder())
    engine._backend.gate.set()
    assert engine.drain(WAIT)
    for recorder in (running, waiting):
        assert recorder.end().reason is FinishReason.MAX_TOKENS


def test_close_cancels_what_runs(make: Callable[..., Engine]) -> None:
    engine, recorders = make(slots=1), [Recorder(), Recorder()]
    engine._backend.gate.clear()
    for recorder in recorders:
        engine.submit(request(3, 30), recorder)
    assert recorders[0].admitted.wait(WAIT)
    threading.Timer(0.02, engine._backend.gate.set).start()
    with engine:
        pass
    assert [recorder.end().reason for recorder in recorders] == [FinishReason.CANCELLED] * 2
    engine.close()
    assert engine._backend.closed == 1
    with pytest.raises(DrainingError):
        engine.submit(request(), Recorder())


def test_an_interrupted_close_can_be_repeated(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    engine = make()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine._loop, "stop", interrupt)
        engine.close()
    assert engine._backend.closed == 0
    engine.close()
    assert engine._backend.closed == 1


def test_waiting_calls_are_refused_on_the_engines_thread(make: Callable[..., Engine]) -> None:
    engine, raised = make(), []

    def listener(event: Event) -> None:
        if isinstance(event, End):
            for call in (lambda: engine.generate(request()), engine.drain, engine.close):
                try:
                    call()
                except RuntimeError as error:
                    raised.append(str(error))

    engine.submit(request(), listener)
    assert engine.drain(WAIT)
    assert len(raised) == 3


def test_an_idle_engine_sleeps(make: Callable[..., Engine]) -> None:
    engine = make()
    engine.generate(request())
    steps, before = engine.stats().steps, time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.05
    assert engine.stats().steps == steps


def test_limits_larger_than_the_backend_are_refused() -> None:
    with pytest.raises(EngineError, match=r"limits\.slots is 5; the engine was built for 4"):
        Engine(HistoryBackend(4), LetterCodec(), Limits(5, CAPACITY, CHUNK, 1))


def test_fewer_slots_than_the_backend_has_are_used() -> None:
    with Engine(HistoryBackend(4), LetterCodec(), Limits(2, 16, CHUNK, 1)) as engine:
        assert engine.capacity == 16
        assert engine.stats().free_slots == 2
        assert engine.generate(request(3, None)).usage.output_tokens == 13
        with pytest.raises(ValueError, match="without a manifest"):
            _ = engine.manifest
