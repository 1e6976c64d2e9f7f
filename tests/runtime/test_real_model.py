"""Engines of real checkpoints draw the ids that a C program drew from the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgellama.profiles.profile import Build, Device, Limits, Precision, Profile
from edgellama.runtime.completion import Collector, Completion
from edgellama.runtime.engine import Engine
from edgellama.runtime.request import FinishReason, Request, Sampling, Stop

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
        limits=Limits(SLOTS, CAPACITY[model.name], 7, 64),
    )
    directory = tmp_path_factory.mktemp(model.name) / "engine"
    build_engine(profile, model, directory)
    with Engine.load(directory) as loaded:
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
