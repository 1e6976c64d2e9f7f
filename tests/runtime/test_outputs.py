"""Several outputs of one prompt: each what it would be alone, all of one computed prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from history_engine import CAPACITY, CHUNK, WAIT, HistoryBackend, byte_codec

from edgellama.profiles.profile import Limits
from edgellama.runtime.completion import Collector, Completion, Output
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import Admission, Delta, End, Event, FinishReason
from edgellama.runtime.guide import Guide
from edgellama.runtime.request import (
    MAX_OUTPUTS,
    EngineFailedError,
    InvalidRequestError,
    QueueFullError,
    Request,
    Sampling,
    Stop,
)

PROMPT = tuple(range(60, 90))


Make = Callable[..., Engine]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make engines that are closed after the test; the backend is `engine._backend`."""
    engines: list[Engine] = []
    codec = byte_codec()

    def make_engine(slots: int = 4, max_queue: int = 64, preempt: bool = False) -> Engine:
        limits = Limits(slots, CAPACITY, CHUNK, max_queue)
        engines.append(Engine(HistoryBackend(slots), codec, limits, preempt=preempt))
        return engines[-1]

    yield make_engine
    for engine in engines:
        engine._backend.gate.set()
        engine.close()


class Recorder(Collector):
    """Keeps the raw events too, and may raise at the one of a number."""

    def __init__(self, raises_at: int | None = None) -> None:
        super().__init__()
        self.events: list[Event] = []
        self._raises_at = raises_at

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        super().__call__(event)
        if len(self.events) - 1 == self._raises_at:
            raise RuntimeError("listener broke")

    def ends(self) -> list[End]:
        assert self._ended.wait(WAIT), "an End is missing"
        return [event for event in self.events if isinstance(event, End)]


def ask(n: int = 3, new: int = 20, prompt: tuple[int, ...] = PROMPT, **options: object) -> Request:
    sampling = Sampling(temperature=1.0, seed=7)
    return replace(Request(prompt, sampling, Stop(max_new_tokens=new), n=n), **options)  # type: ignore[arg-type]


def alone(engine: Engine, request: Request, index: int) -> Output:
    """Return what the output of an index is as a request of its own."""
    assert request.sampling.seed is not None
    seed = (request.sampling.seed + index) % 2**64
    (output,) = engine.generate(
        replace(request, n=1, sampling=replace(request.sampling, seed=seed))
    ).outputs
    return output


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.001)


def test_greedy_outputs_are_equal_and_the_prompt_is_computed_once(make: Make) -> None:
    engine = make()
    request = ask(sampling=Sampling(temperature=0.0), stop=Stop(max_new_tokens=12, ignore_eos=True))
    done = engine.generate(request)
    stats = engine.stats()
    assert stats.prompt_tokens == len(PROMPT) + 2, "the others compute its last token only"
    assert stats.cached_prompt_tokens == 2 * (len(PROMPT) - 1)
    chunks = [step.choice.chunk for step in engine.steps() if step.choice.chunk is not None]
    assert [chunk.tokens for chunk in chunks] == [8, 8, 8, 6, 1, 1]
    assert [chunk.request_id.partition("#")[1:] for chunk in chunks[3:]] == [
        ("", ""),
        ("#", "1"),
        ("#", "2"),
    ]
    solo = make().generate(replace(request, n=1))
    assert done.outputs == solo.outputs * 3
    assert done.usage == replace(solo.usage, output_tokens=36)
    assert (done.token_ids, done.text) == (solo.token_ids, solo.text)
    assert 0 < done.timing.queue < done.timing.first_token < done.timing.total


def test_each_output_is_what_its_seed_gives_alone(make: Make) -> None:
    engine = make()
    request = ask(4, top_logprobs=2, stop=Stop(max_new_tokens=20, strings=("BC",), token_ids=(68,)))
    done = engine.generate(request)
    assert list(done.outputs) == [alone(make(), request, i) for i in range(4)]
    assert len({output.token_ids for output in done.outputs}) == 4
    assert len({output.finish_reason for output in done.outputs}) > 1, "each has its own end"
    assert all(len(o.logprobs) == len(o.token_ids) for o in done.outputs)
    assert engine.generate(request).outputs == done.outputs, "a seed repeats all of them"
    fewer = engine.generate(replace(request, n=2))
    assert fewer.outputs == done.outputs[:2]


def test_the_greatest_seed_is_followed_by_the_least(make: Make) -> None:
    request = ask(2, sampling=Sampling(temperature=1.0, seed=2**64 - 1))
    assert make().generate(request).outputs[1] == alone(make(), request, 1)


def test_outputs_without_a_seed_can_be_drawn_again(make: Make) -> None:
    engine, recorder = make(), Recorder()
    request = ask(3, sampling=Sampling(temperature=1.0))
    engine.submit(request, recorder)
    done = recorder.result()
    assert recorder.admission is not None
    seeded = Sampling(temperature=1.0, seed=recorder.admission.seed)
    assert engine.generate(replace(request, sampling=seeded)).outputs == done.outputs


def test_the_events_of_every_output(make: Make) -> None:
    engine, recorder = make(), Recorder()
    request_id = engine.submit(ask(3), recorder)
    ends = recorder.ends()
    assert isinstance(recorder.events[0], Admission) and recorder.events[0].seed == 7
    assert recorder.events[0].request_id == request_id
    assert sum(isinstance(event, Admission) for event in recorder.events) == 1
    assert [end.outputs_left for end in ends] == [2, 1, 0]
    assert sorted(end.index for end in ends) == [0, 1, 2]
    for end in ends:
        own = [e for e in recorder.events if isinstance(e, Delta) and e.index == end.index]
        assert recorder.events.index(own[-1]) < recorder.events.index(end)
        assert [delta.token_offset for delta in own] == list(range(len(own)))
        assert end.usage.output_tokens == len(own)
    assert recorder.result().usage.output_tokens == engine.stats().output_tokens


def test_outputs_of_one_token(make: Make) -> None:
    engine = make()
    done = engine.generate(ask(4, new=1))
    assert [len(output.token_ids) for output in done.outputs] == [1] * 4
    assert engine.stats().prompt_tokens == len(PROMPT) + 3


def test_a_prompt_too_short_to_share(make: Make) -> None:
    request = ask(3, prompt=(1, 2))
    assert list(make().generate(request).outputs) == [alone(make(), request, i) for i in range(3)]


@pytest.mark.parametrize("preempt", [False, True])
def test_many_requests_of_many_outputs_equal_their_solo_runs(make: Make, preempt: bool) -> None:
    draw = np.random.default_rng(4)
    requests = [
        ask(
            n=int(draw.integers(1, 4)),
            new=int(draw.integers(1, 12)),
            prompt=(*range(50, 50 + int(draw.integers(1, 40))), i),
            sampling=Sampling(temperature=1.0, seed=100 * i, repetition_penalty=1.1),
            priority=i // 8 - 2 if preempt else 0,
            tenant="xyz"[i % 3],
            request_id=f"r{i}",
        )
        for i in range(30)
    ]
    solo = make(slots=1)
    expected = [[alone(solo, one, i) for i in range(one.n)] for one in requests]
    engine, recorders = make(slots=3, max_queue=200, preempt=preempt), []
    for one in requests:
        steps = engine.stats().steps
        recorders.append(Recorder())
        engine.submit(one, recorders[-1])
        until(lambda before=steps: engine.stats().steps > before)  # type: ignore[misc]
    for outputs, recorder in zip(expected, recorders, strict=True):
        assert list(recorder.result().outputs) == outputs
    stats = engine.stats()
    assert (stats.free_slots, stats.waiting) == (3, 0)
    assert (stats.preemptions > 0) == preempt


def test_a_guide_holds_for_every_output(make: Make) -> None:
    choices = ("red", "green", "blue")
    request = ask(4, guide=Guide(choices=choices), sampling=Sampling(temperature=20.0, seed=1))
    done = make().generate(request)
    assert {output.text for output in done.outputs} <= set(choices)
    assert len({output.text for output in done.outputs}) > 1
    assert {output.finish_reason for output in done.outputs} == {FinishReason.GUIDE}
    assert list(done.outputs) == [alone(make(), request, i) for i in range(4)]


@pytest.mark.parametrize("steps", [1, 4, 6, 9])  # in the prompt, before, among, after siblings
def test_a_cancel_ends_all_outputs_and_frees_every_slot(make: Make, steps: int) -> None:
    engine, recorder = make(), Recorder()
    gate = engine._backend.gate
    gate.clear()
    stop = Stop(max_new_tokens=60, ignore_eos=True)
    request_id = engine.submit(ask(4, stop=stop), recorder)
    for step in range(1, steps):
        gate.set()
        until(lambda step=step: len(engine._backend.steps) >= step)  # type: ignore[misc]
        gate.clear()
    assert engine.cancel(request_id)
    gate.set()
    ends = recorder.ends()
    assert [end.reason for end in ends] == [FinishReason.CANCELLED] * 4
    assert [end.outputs_left for end in ends] == [3, 2, 1, 0]
    assert not engine.cancel(request_id)
    stats = engine.stats()
    assert (stats.free_slots, stats.waiting) == (4, 0)
    assert engine.generate(ask(4)).outputs == make().generate(ask(4)).outputs


@pytest.mark.parametrize("raises_at", [9, 10, 11])  # at the first, second and third output
def test_a_listener_that_raises_costs_its_request_only(make: Make, raises_at: int) -> None:
    engine, bad, good = make(slots=8), Recorder(raises_at), Recorder()
    stop = Stop(max_new_tokens=50, ignore_eos=True)
    engine.submit(ask(3, stop=stop), bad)
    engine.submit(ask(3, stop=stop), good)
    assert [end.reason for end in bad.ends()] == [FinishReason.CANCELLED] * 3
    assert all(isinstance(event, End) for event in bad.events[raises_at + 1 :])
    assert {end.reason for end in good.ends()} == {FinishReason.MAX_TOKENS}
    assert engine.stats().free_slots == 8


def test_an_output_that_fails_ends_its_request_once(make: Make) -> None:
    engine, bad, good = make(slots=8), Recorder(), Recorder()
    stop = Stop(max_new_tokens=40, ignore_eos=True)
    drawn = [output.token_ids for output in engine.generate(ask(3, stop=stop)).outputs]
    # A token that one output alone draws, and not at once.
    only = [t for t in drawn[1][3:9] if t not in (*PROMPT, *drawn[0][:12], *drawn[2][:12])]
    engine._backend.poison = only[0]
    engine.submit(ask(3, stop=stop), bad)
    engine.submit(ask(2, prompt=(1, 2), stop=Stop(max_new_tokens=2)), good)
    ends = bad.ends()
    reasons = [end.reason for end in ends]
    assert reasons == [FinishReason.ERROR, FinishReason.CANCELLED, FinishReason.CANCELLED]
    assert ends[0].index == 1 and ends[0].error is not None
    with pytest.raises(EngineFailedError, match="the request failed"):
        bad.result()
    assert {end.reason for end in good.ends()} == {FinishReason.MAX_TOKENS}
    assert not engine.has_failed and engine.stats().free_slots == 8


@pytest.mark.parametrize(
    ("n", "message"),
    [(0, r"n: is 0; it must be in \[1, 16\]"), (MAX_OUTPUTS + 1, "is 17"), (2.5, "an integer")],
)
def test_a_number_of_outputs_out_of_bounds_is_refused(n: float, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Request((1,), n=n)  # type: ignore[arg-type]


def test_more_outputs_than_slots_are_refused(make: Make) -> None:
    with pytest.raises(InvalidRequestError, match=r"has 3 slots, .* at most 3") as caught:
        make(slots=3).submit(ask(4), Collector())
    assert caught.value.field == "n"
    assert len(make(slots=3).generate(ask(3)).outputs) == 3


def test_a_queue_without_room_for_all_refuses_all(make: Make) -> None:
    engine, running = make(slots=4, max_queue=1), Recorder()
    engine._backend.gate.clear()
    engine.submit(ask(3), running)
    with pytest.raises(QueueFullError):
        engine.submit(ask(3), Collector())
    engine.submit(ask(2), Recorder())
    engine._backend.gate.set()
    running.ends()


def test_ids_of_outputs_are_in_use(make: Make) -> None:
    engine, recorder = make(), Recorder()
    engine._backend.gate.clear()
    engine.submit(ask(2, request_id="a"), recorder)
    for taken in ("a", "a#1"):
        with pytest.raises(InvalidRequestError, match=f"'{taken}' is in use"):
            engine.submit(ask(1, request_id=taken), Collector())
    assert not engine.cancel("a#1")
    engine._backend.gate.set()
    recorder.ends()
    assert isinstance(engine.generate(ask(1, request_id="a#1")), Completion)
