"""The gate: its arithmetic on numbers, and regressions that are planted into a real engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from edgellama.benchmark.figures import DocumentError, Figure, figures_of
from edgellama.benchmark.latency import measure_latency
from edgellama.benchmark.regression import compare
from edgellama.benchmark.series import series
from edgellama.runtime.ort import OrtBackend
from edgellama.runtime.sampling import Sampler

VERSIONS = {
    "valgrind": "3.19",
    "python": "3.11",
    "numpy": "2",
    "tokenizers": "0.22",
    "machine": "x",
}
ATTEMPTS = 3


def document() -> dict[str, Any]:
    """A run with one figure of each kind."""
    return {
        "kind": "run",
        "latency": {
            "requests": [
                {
                    "prompt_tokens": 64,
                    "rows": 1,
                    "prefill_share": series([0.5]),
                    "decode_share": series([0.8, 0.9]),
                }
            ],
            "steps": [{"context": 128, "rows": 4, "share": series([0.7])}],
        },
        "peers": {
            "rows": [
                {"work": "decode", "context": 128, "system": "edgellama", "value": series([25])},
                {
                    "work": "decode",
                    "context": 128,
                    "system": "other",
                    "value": series([20]),
                    "ratio_to_ours": series([0.8]),
                },
                {"work": "decode", "context": 128, "system": "dead", "error": "SIGILL"},
            ]
        },
        "counts": {"instructions": {"sampler": 1000}, "versions": VERSIONS},
    }


def failed(before: dict[str, Any], now: dict[str, Any], limit: float = 0.1) -> list[str]:
    return [each.name for each in compare(before, now, limit=limit) if each.has_failed]


def test_every_ratio_and_count_is_a_figure_and_no_time_is() -> None:
    found = figures_of(document(), "it")
    assert found == {
        "prompt 64 x 1 rows: prefill_share": Figure(0.5, 0.0, True),
        "prompt 64 x 1 rows: decode_share": Figure(0.85, pytest.approx(0.1176, abs=1e-3), True),
        "context 128 x 4 rows: share": Figure(0.7, 0.0, True),
        "decode 128: other to ours": Figure(0.8, 0.0, False),
        "instructions of the sampler": Figure(1000.0, 0.0, False),
    }


def test_a_run_is_as_good_as_itself() -> None:
    assert failed(document(), document()) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (
            lambda run: run["latency"]["steps"][0].update(share=series([0.62])),
            "context 128 x 4 rows: share",
        ),
        (
            lambda run: run["peers"]["rows"][1].update(ratio_to_ours=series([0.89])),
            "decode 128: other to ours",
        ),
        (
            lambda run: run["counts"]["instructions"].update(sampler=1101),
            "instructions of the sampler",
        ),
        (lambda run: run["latency"]["steps"].clear(), "context 128 x 4 rows: share"),
        (lambda run: run.pop("peers"), "decode 128: other to ours"),
    ],
    ids=["share", "peer", "count", "a figure is gone", "a part is gone"],
)
def test_what_is_worse_by_more_than_a_tenth_fails(
    change: Callable[[dict[str, Any]], Any], name: str
) -> None:
    now = deepcopy(document())
    change(now)
    assert failed(document(), now) == [name]
    if name in figures_of(now, "it"):
        assert failed(now, document()) == [], "the other way round it is better"


def test_the_limit_is_a_share() -> None:
    now = deepcopy(document())
    now["counts"]["instructions"]["sampler"] = 1050
    assert failed(document(), now) == [] and failed(document(), now, limit=0.04)


def test_counts_of_other_versions_are_not_compared() -> None:
    now = deepcopy(document())
    now["counts"]["versions"] = {**VERSIONS, "numpy": "3"}
    with pytest.raises(DocumentError, match="counted with numpy 2, the run's with 3"):
        compare(document(), now)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "serve"}, "kind is 'serve'"),
        ({"kind": "run"}, "no ratio and no count"),
        ({"kind": "counts", "instructions": 7}, "is damaged"),
        ({"kind": "latency", "requests": [{}], "steps": [{"share": {}}]}, "is damaged"),
    ],
)
def test_what_is_no_benchmark_is_said(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DocumentError, match=f"the file: .*{said}"):
        figures_of(wrong, "the file")


def slow_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleep in the sampler."""
    real = Sampler.sample

    def sample(self: Sampler, *arguments: Any, **options: Any) -> Any:
        time.sleep(0.01)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Sampler, "sample", sample)


def doubled_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read all weights twice in every step."""
    real = OrtBackend.run

    def run(self: OrtBackend, step: Any) -> Any:
        real(self, step)
        return real(self, step)

    monkeypatch.setattr(OrtBackend, "run", run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "figure"),
    [
        (slow_sampler, "prompt 4 x 1 rows: decode_share"),
        (doubled_read, "context 96 x 4 rows: share"),
    ],
)
def test_a_planted_regression_is_caught(
    small_engine: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
    figure: str,
) -> None:
    """A neighbour that takes the machine while the first run is made hides it: once more."""

    def measured() -> dict[str, Any]:
        return measure_latency(
            small_engine,
            prompts=(4,),
            rows=(1, 4),
            contexts=(96,),
            output_tokens=16,
            rounds=3,
            progress=lambda _stage, _done, _total: None,
        )

    for _ in range(ATTEMPTS):
        before = measured()
        with monkeypatch.context() as patched:
            plant(patched)
            after = measured()
        if figure in failed(before, after):
            return
    pytest.fail(f"{figure} was not caught in {ATTEMPTS} runs")
