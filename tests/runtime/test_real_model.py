"""Engines of real checkpoints draw the ids that a C program drew from the same weights."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellama.profiles.profile import Build, Device, Limits, Precision, Profile
from edgellama.runtime.completion import Collector, Completion
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import FinishReason
from edgellama.runtime.request import Request, Sampling, Stop

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow

SLOTS = 4
CAPACITY = {"stories260k": 512, "babyllama105": 256}
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module", params=list(CAPACITY))
def model(request: pytest.FixtureRequest, shared_data: Path) -> Path:
    return shared_data / str(request.param)


@pytest.fixture(scope="module")
def engine(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from edgellama.optimize.build import build_engine

    profile = Profile(
        name="real",
        description="",
        model=model.name,
        device=Device("cpu", 1.0, 2),
        build=Build("ort", "onnxruntime"),
        # Some cases choose between logits 2e-4 apart: only float32 can be compared by ids.
        precision=Precision("fp32", "fp32", "fp32", 32),
        limits=Limits(SLOTS, CAPACITY[model.name], 7, 64, chunk_slowdown=1.5, draft_tokens=7),
    )
    directory = tmp_path_factory.mktemp(model.name) / "engine"
    build_engine(profile, model, directory)
    with Engine.load(directory, preempt=True) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def cases(model: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((model / "greedy.json").read_text())["cases"]
    return found


def run_together(engine: Engine, requests: list[Request]) -> list[Completion]:
    collectors = [Collector() for _ in requests]
    for request, collector in zip(requests, collectors, strict=True):
        engine.submit(request, collector)
    return [collector.result() for collector in collectors]


def test_greedy_ids_past_every_stop(engine: Engine, cases: list[dict[str, Any]]) -> None:
    requests = [
        Request(
            tuple(case["prompt_ids"]),
            GREEDY,
            Stop(max_new_tokens=len(case["new_ids_no_stop"]), ignore_eos=True),
        )
        for case in cases
    ]
    results = run_together(engine, requests)
    assert [list(one.token_ids) for one in results] == [c["new_ids_no_stop"] for c in cases]


def test_the_models_stop_ids_end_the_story(engine: Engine, cases: list[dict[str, Any]]) -> None:
    stopping = [case for case in cases if case["n_new_until_stop"] is not None]
    assert stopping
    requests = [Request(tuple(c["prompt_ids"]), GREEDY, Stop(max_new_tokens=200)) for c in stopping]
    for case, result in zip(stopping, run_together(engine, requests), strict=True):
        count = case["n_new_until_stop"]
        assert list(result.token_ids) == case["new_ids_no_stop"][:count]
        assert result.finish_reason is FinishReason.EOS
        assert result.text == case["text_full"].removeprefix(case["prompt"])


def test_sampled_requests_equal_their_solo_runs(
    engine: Engine, cases: list[dict[str, Any]]
) -> None:
    requests = [
        Request(
            tuple(cases[i % len(cases)]["prompt_ids"]),
            Sampling(temperature=0.9, top_p=0.95, seed=i),
            Stop(max_new_tokens=40),
        )
        for i in range(20)
    ]
    together = run_together(engine, requests)
    for request, result in zip(requests, together, strict=True):
        alone = engine.generate(request)
        assert (alone.token_ids, alone.text) == (result.token_ids, result.text)


@dataclass(frozen=True)
class Arrival:
    """A request: of case `case`, behind `told` tokens of its answer, for `new` more."""

    case: int
    told: int
    new: int
    priority: int
    salt: str
    tenant: str
    outputs: int
    steps: int  # of the engine before the next arrives
    cancelled: bool  # then


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        case=st.integers(0, 9),
        told=st.integers(0, 60),
        new=st.integers(1, 60),
        priority=st.integers(-1, 1),
        salt=st.sampled_from(("", "", "other")),
        tenant=st.sampled_from(("", "x")),
        outputs=st.sampled_from((1, 1, 1, 2)),
        steps=st.integers(0, 12),
        cancelled=st.sampled_from((False, False, False, True)),
    ),
    min_size=1,
    max_size=12,
)


def test_any_mixture_gives_each_request_the_ids_of_its_solo_run(
    engine: Engine, cases: list[dict[str, Any]]
) -> None:
    before = engine.stats()

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(ARRIVALS)
    def run(arrivals: list[Arrival]) -> None:
        check_mixture(engine, cases, arrivals)

    run()
    stats = engine.stats()
    assert stats.accepted_tokens - before.accepted_tokens > 50
    assert stats.cached_prompt_tokens - before.cached_prompt_tokens > 500


def check_mixture(engine: Engine, cases: list[dict[str, Any]], arrivals: list[Arrival]) -> None:
    running = []
    for arrival in arrivals:
        case = cases[arrival.case]
        ids = case["new_ids_no_stop"]
        told = min(arrival.told, len(ids) - 1)
        request = Request(
            (*case["prompt_ids"], *ids[:told]),
            GREEDY,
            Stop(max_new_tokens=min(arrival.new, len(ids) - told), ignore_eos=True),
            priority=arrival.priority,
            cache_salt=arrival.salt,
            tenant=arrival.tenant,
            n=arrival.outputs,
        )
        collector, begun = Collector(), engine.stats().steps
        request_id = engine.submit(request, collector)
        running.append((collector, ids[told:][: request.stop.max_new_tokens], arrival))
        until = time.monotonic() + 0.5
        while engine.stats().steps < begun + arrival.steps and time.monotonic() < until:
            time.sleep(0.0002)
        if arrival.cancelled:
            engine.cancel(request_id)
    for collector, expected, arrival in running:
        for output in collector.result().outputs:
            if arrival.cancelled and output.finish_reason is FinishReason.CANCELLED:
                expected = expected[: len(output.token_ids)]
            assert list(output.token_ids) == expected
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.free_slots) == (0, 0, SLOTS)
