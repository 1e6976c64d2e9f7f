"""Which runs are read, and how the others are refused."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellama.benchmark.report.document import load_document, read_run
from edgellama.benchmark.report.record import DocumentError

sys.path.insert(0, str(Path(__file__).parent))

from example_run import full_run, least_run

Change = Callable[[dict[str, Any]], object]


def p95(run: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = run["latency"]["requests"][2]["ttft_ms"]
    return found


REFUSED: dict[str, Change] = {
    "kind is \"latency\", a report needs 'run'": lambda run: run.update(kind="latency"),
    "schema_version 2; this edgellama reads 1": lambda run: run.update(schema_version=2),
    "engine is missing; measure again": lambda run: run.pop("engine"),
    "when is null; measure again": lambda run: run.update(when=None),
    "command is missing: a run must say how to repeat it": lambda run: run.pop("command"),
    "environment is [], it must be an object": lambda run: run.update(environment=[]),
    "latency.requests[2].ttft_ms.p95 is \"fast\", it must be a finite number":
        lambda run: p95(run).update(p95="fast"),
    "latency.requests[2].ttft_ms.p95 is true, it must be a finite number":
        lambda run: p95(run).update(p95=True),
    "latency.requests[2].ttft_ms.p95 is Infinity": lambda run: p95(run).update(p95=float("inf")),
    "latency.requests[2].ttft_ms has percentiles": lambda run: p95(run).update(p95=0.5),
    "latency.requests[2].ttft_ms has n 40 and 3 percentiles": lambda run: p95(run).pop("p95"),
    "latency.requests[2].rows is 1.5, it must be a whole number":
        lambda run: run["latency"]["requests"][2].update(rows=1.5),
    "latency.steps[0] has bytes 0; it must be above 0":
        lambda run: run["latency"]["steps"][0].update(bytes=0),
    "latency.steps[0].ms has low": lambda run: run["latency"]["steps"][0]["ms"].update(low=1e9),
    "latency.steps[0].ms has n 0": lambda run: run["latency"]["steps"][0]["ms"].update(n=0),
    "latency.ceilings has matrix_used 'fp8'; matrix_gops was measured for fp32, bf16, int8":
        lambda run: run["latency"]["ceilings"].update(matrix_used="fp8"),
    "serve.slo has ttft_ms -1": lambda run: run["serve"]["slo"].update(ttft_ms=-1),
    "serve has open[0] without offered_per_s": lambda run: run["serve"]["open"][0].pop(
        "offered_per_s"),
    "serve has closed[1] without concurrency": lambda run: run["serve"]["closed"][1].pop(
        "concurrency"),
    "serve.open is {}, it must be a list": lambda run: run["serve"].update(open={}),
    "peers.rows[0] has work 'dance'; it must be one of prefill, decode, requests":
        lambda run: run["peers"]["rows"][0].update(work="dance"),
    "peers.rows[0] has work 'prefill' and no prompt_tokens":
        lambda run: run["peers"]["rows"][0].pop("prompt_tokens"),
    "peers.rows[0] has neither a value nor an error":
        lambda run: run["peers"]["rows"][0].pop("value"),
    "peers.rows[1] has ratio_to_ours 0":
        lambda run: run["peers"]["rows"][1]["ratio_to_ours"].update(low=0.0),
    "counts.instructions.sampler is \"many\", it must be a whole number":
        lambda run: run["counts"]["instructions"].update(sampler="many"),
    "accuracy[0].perplexity is [], it must be a finite number":
        lambda run: run["accuracy"].update(perplexity=[]),
}  # fmt: skip


@pytest.mark.parametrize("problem", REFUSED, ids=str)
def test_a_bad_document_is_refused_by_file_and_key(problem: str, tmp_path: Path) -> None:
    run = full_run()
    REFUSED[problem](run)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run), encoding="utf-8")
    with pytest.raises(DocumentError, match=re.escape(problem)) as raised:
        load_document(file)
    assert str(raised.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "is no JSON (Expecting property name enclosed in double quotes, line 1, column 2)"),
        (b"\xff\xfe", "is no UTF-8 text"),
        (b"[]", "is no JSON object; make one with: edgellama bench all"),
        (b"{}", "kind is null, a report needs 'run'"),
    ],
)
def test_what_is_no_document_says_what_to_do(content: bytes, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(content)
    with pytest.raises(DocumentError, match=re.escape(problem)):
        load_document(file)


def test_the_least_run_has_no_parts() -> None:
    run = read_run(least_run())
    assert (run.latency, run.serve, run.peers, run.counts, run.accuracy) == (None,) * 5


def test_what_was_not_measured_may_be_null() -> None:
    raw = full_run()
    raw["serve"] |= {"slo": None, "knee": None, "overload": None}
    raw["serve"]["tax"] |= {"in_process": None, "us_per_token": None}
    raw["latency"]["ceilings"] = None
    raw["latency"]["requests"][0] |= {"tokens_per_s": None, "itl_ms": {"n": 0}}
    raw["latency"]["requests"][1]["step_ms"] = None
    del raw["latency"]["steps"][0]["share"]
    run = read_run(raw)
    assert run.serve is not None and run.serve.knee is None
    assert run.latency is not None and run.latency.requests is not None
    assert run.latency.requests[0].itl_ms.values == (None,) * 4
    assert run.latency.requests[1].split == {}


def test_the_document_is_not_changed() -> None:
    raw = full_run()
    before = copy.deepcopy(raw)
    read_run(raw)
    assert raw == before


def test_several_engines_may_have_an_accuracy() -> None:
    raw = full_run()
    raw["accuracy"] = [raw["accuracy"] | {"engine": name} for name in ("one", "two")]
    found = read_run(raw).accuracy
    assert found is not None and [row.engine for row in found] == ["one", "two"]


def test_the_parts_of_a_step_are_in_its_order() -> None:
    raw = full_run()
    one = {"n": 1, "median": 2.0, "low": 2.0, "high": 2.0, "spread": 0.0}
    raw["latency"]["requests"][0]["step_ms"] = {"new": 1.0, "wire": 3, "run": one, "bind": None}
    run = read_run(raw)
    assert run.latency is not None and run.latency.requests is not None
    assert list(run.latency.requests[0].split.items()) == [("run", 2.0), ("wire", 3), ("new", 1.0)]
