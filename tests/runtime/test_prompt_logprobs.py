"""Log-probabilities of a prompt's own tokens: each given those before it, computed whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from history_engine import CAPACITY, CHUNK, WAIT, HistoryBackend, byte_codec

from edgellama.profiles.profile import Limits
from edgellama.runtime.completion import Collector, Completion
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import Delta, Event, PromptLogprobs, TokenLogprobs
from edgellama.runtime.logprobs import token_logprobs
from edgellama.runtime.prompt_scores import PromptScores
from edgellama.runtime.request import (
    MAX_LOGPROBS,
    MAX_PROMPT_LOGPROBS,
    EngineFailedError,
    InvalidRequestError,
    Request,
    Sampling,
    Stop,
)

PROMPT = tuple(range(40, 70))
Make = Callable[..., Engine]


@pytest.fixture
def make() -> Iterator[Make]:
    engines: list[Engine] = []

    def make_engine(slots: int = 4, preempt: bool = False) -> Engine:
        backend, limits = HistoryBackend(slots), Limits(slots, CAPACITY, CHUNK, 64)
        engines.append(Engine(backend, byte_codec(), limits, preempt=preempt))
        return engines[-1]

    yield make_engine
    for engine in engines:
        engine._backend.gate.set()
        engine.close()


def ask(prompt: tuple[int, ...] = PROMPT, **options: object) -> Request:
    greedy, stop = Sampling(temperature=0.0), Stop(max_new_tokens=8, ignore_eos=True)
    return replace(Request(prompt, greedy, stop, prompt_logprobs=2), **options)  # type: ignore[arg-type]


def expected(prompt: tuple[int, ...], top: int = 2) -> tuple[TokenLogprobs | None, ...]:
    """The model's own, token by token in a slot of its own."""
    backend = HistoryBackend(1)
    logits = [backend.run_tokens(0, [token], i)[0] for i, token in enumerate(prompt)]
    rows = zip(logits, prompt[1:], strict=False)
    return (None, *(token_logprobs(row, token, top) for row, token in rows))


class Recorder(Collector):
    """Keeps the raw events too; holds the engine at its `gate` behind the first chunk."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.scored = threading.Event()
        self._gate = gate

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        super().__call__(event)
        if isinstance(event, PromptLogprobs) and not self.scored.is_set():
            if self._gate is not None:
                self._gate.clear()
            self.scored.set()


def test_an_entry_is_the_log_softmax() -> None:
    raw = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    wanted = raw - np.log(np.exp(raw.astype(np.float64)).sum())
    entry = token_logprobs(raw, 7, 3)
    assert entry.chosen == pytest.approx(wanted[7], abs=1e-6)
    assert [token for token, _ in entry.top] == np.argsort(-raw)[:3].tolist()
    assert [value for _, value in entry.top] == pytest.approx(sorted(wanted)[:-4:-1], abs=1e-6)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 17, 30])  # chunks have 8
@pytest.mark.parametrize("top", [0, 2])
def test_every_token_but_the_first_has_one(make: Make, length: int, top: int) -> None:
    engine = make()
    done = engine.generate(ask(PROMPT[:length], prompt_logprobs=top))
    assert done.prompt_logprobs == expected(PROMPT[:length], top)
    plain = engine.generate(ask(PROMPT[:length], prompt_logprobs=None))
    assert plain.prompt_logprobs == ()
    assert plain.outputs == done.outputs


def test_they_come_with_the_chunks_before_the_first_token(make: Make) -> None:
    recorder = Recorder()
    make().submit(ask(), recorder)
    recorder.result()
    parts = [event for event in recorder.events[1:] if isinstance(event, PromptLogprobs)]
    assert recorder.events[1 : 1 + len(parts)] == parts
    assert [(part.token_offset, len(part.logprobs)) for part in parts] == [
        (1, 8),
        (9, 8),
        (17, 8),
        (25, 5),
    ]


def test_nothing_is_taken_from_the_cache_but_left_for_others(make: Make) -> None:
    engine = make()
    engine.generate(ask(prompt_logprobs=None))
    done = engine.generate(ask())
    assert done.usage.cached_prompt_tokens == 0
    assert done.prompt_logprobs == expected(PROMPT)
    assert engine.generate(ask(prompt_logprobs=None)).usage.cached_prompt_tokens == 29


def test_several_outputs_share_a_prompt_that_is_scored(make: Make) -> None:
    engine = make()
    done = engine.generate(ask(n=3))
    assert done.prompt_logprobs == expected(PROMPT)
    assert engine.stats().prompt_tokens == len(PROMPT) + 2
    assert len(set(done.outputs)) == 1


def test_scored_and_other_requests_in_the_same_steps_equal_their_solo_runs(make: Make) -> None:
    draw = np.random.default_rng(5)
    requests = [
        ask(
            (*PROMPT[: draw.integers(1, 30)], i),
            prompt_logprobs=(None, 0, 3)[i % 3],
            sampling=Sampling(temperature=1.0, seed=i),
        )
        for i in range(24)
    ]
    solo = [make(slots=1).generate(one) for one in requests]
    engine, recorders = make(slots=3), [Recorder() for _ in requests]
    for one, recorder in zip(requests, recorders, strict=True):
        engine.submit(one, recorder)
    for alone, recorder in zip(solo, recorders, strict=True):
        done = recorder.result()
        assert done == replace(alone, timing=done.timing, usage=done.usage)
    assert any(step.choice.chunk and step.choice.rows for step in engine.steps())


def test_a_prompt_that_loses_its_slot_is_told_once(make: Make) -> None:
    engine, urgent = make(slots=1, preempt=True), Recorder()
    slow = Recorder(engine._backend.gate)
    engine.submit(ask(), slow)
    assert slow.scored.wait(WAIT)
    engine.submit(ask(PROMPT[:5], priority=9), urgent)
    engine._backend.gate.set()
    assert urgent.result().prompt_logprobs == expected(PROMPT[:5])
    assert slow.result().prompt_logprobs == expected(PROMPT)
    assert engine.stats().preemptions == 1
    assert engine.stats().prompt_tokens == 2 * CHUNK + 5 + len(PROMPT), "two chunks were lost"


def test_what_was_given_out_is_left_out() -> None:
    backend = HistoryBackend(1)
    logits = backend.run_tokens(0, list(PROMPT), 0)
    scores = PromptScores(PROMPT, 2)
    parts = [
        scores.take(logits[start:end], start)
        for start, end in ((0, 8), (8, 16), (0, 12), (12, 20), (20, 30))
    ]
    assert [(part.token_offset, len(part.logprobs)) for part in parts] == [
        (1, 8),
        (9, 8),
        (17, 0),
        (17, 4),
        (21, 9),
    ]
    assert (None, *(entry for part in parts for entry in part.logprobs)) == expected(PROMPT)


@pytest.mark.parametrize("place", [3, 28, 29])  # in the first chunk, in the last and at its end
def test_a_prompt_that_cannot_be_scored_costs_its_request_only(make: Make, place: int) -> None:
    engine = make()
    engine._backend.poison = PROMPT[place]
    recorder = Recorder()
    engine.submit(ask(n=2), recorder)
    with pytest.raises(EngineFailedError, match="the request failed"):
        recorder.result()
    assert not any(isinstance(event, Delta) for event in recorder.events)
    stats = engine.stats()
    assert not engine.has_failed and (stats.free_slots, stats.waiting) == (4, 0)
    engine._backend.poison = None
    assert isinstance(engine.generate(ask((1, 2, 3))), Completion)


@pytest.mark.parametrize(
    ("prompt", "top", "message"),
    [
        (1, MAX_LOGPROBS + 1, r"is 21; it must be in \[0, 20\]"),
        (1, -1, "is -1"),
        (1, 0.5, "an integer"),
        (MAX_PROMPT_LOGPROBS // 21 + 1, 20, "12484 tokens; at most 262144 log-probabilities"),
    ],
)
def test_out_of_bounds_is_refused(prompt: int, top: float, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        Request((1,) * prompt, prompt_logprobs=top)  # type: ignore[arg-type]
    assert caught.value.field == "prompt_logprobs"
