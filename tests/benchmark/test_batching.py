"""The figures of in-flight batching: of real engines, and with faults planted into one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgellama.benchmark.batching import PARTS, measure_batching
from edgellama.benchmark.engine_stream import EngineStream, fixed_length, running
from edgellama.benchmark.figures import figures_of
from edgellama.benchmark.latency_grid import MeasurementError
from edgellama.benchmark.memory_part import MemoryPart
from edgellama.benchmark.memory_worker import largest_steps
from edgellama.benchmark.repeat import repeat_batching
from edgellama.benchmark.weight_forms import weight_forms
from edgellama.cli.__main__ import main
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import FinishReason
from edgellama.runtime.manifest import read_manifest
from edgellama.runtime.ort import NEVER, OrtBackend
from edgellama.runtime.prefix_cache import PrefixCache
from edgellama.runtime.sampling import Sampler
from edgellama.runtime.step import Step


def silent(_stage: str, _done: int, _total: int) -> None:
    """Show nothing."""


def measured(engine: Path, **options: Any) -> dict[str, Any]:
    return measure_batching(engine, **{"rounds": 1, "progress": silent, **options})


@pytest.fixture(scope="module")
def engine(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an engine with room for every part: two forms, 4 slots of 256 tokens."""
    out = tmp_path_factory.mktemp("engines") / "roomy"
    checkpoint = make_checkpoint(max_position_embeddings=256)
    options = ("--slots", "4", "--capacity", "256", "--batch-precision", "int8_rows", "--json")
    arguments = ["build", "cpu-tiny", "--model", str(checkpoint), "--out", str(out), *options]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def document(engine: Path) -> dict[str, Any]:
    return measured(engine, rounds=3, seed=7)


def test_every_part_is_measured(document: dict[str, Any]) -> None:
    assert document["kind"] == "batching" and document["parts"] == list(PARTS)
    assert document["left_out"] == {} and document["rounds_done"] == 3
    assert (document["slots"], document["capacity"], document["seed"]) == (4, 256, 7)
    assert "warnings" in document["environment"]
    json.dumps(document)


def test_a_long_prompt_beside_streams(document: dict[str, Any]) -> None:
    found = document["interference"]
    assert (found["streams"], found["prompt_tokens"]) == (3, 255)
    # In each round 32 gaps of each stream before and 32 after. The streams begin one after another,
    # so that some are ahead, and what lies across the begin or the end of the prompt is of one.
    assert 3 * 3 * 60 <= found["itl_ms_alone"]["n"] <= 3 * 3 * 76
    # A stream gets a token in each step that reads a chunk of 64.
    assert 3 * 3 * 2 <= found["itl_ms_beside"]["n"] <= 3 * 3 * 8
    for name in ("p50_ratio", "p99_ratio", "ttft_ratio"):
        assert found[name]["n"] == 3 and found[name]["low"] > 0


def test_a_cached_prefix(document: dict[str, Any]) -> None:
    found = document["prefix"]
    assert (found["prefix_tokens"], found["cached_tokens"]) == (128, 128)
    assert found["ratio"]["n"] == 3 and found["ratio"]["low"] > 0


def test_the_shares_of_a_step(document: dict[str, Any]) -> None:
    found = document["shares"]
    assert found["rows"] == 4
    assert [row["sampling"] for row in found["samplings"]] == [
        *("greedy", "top_p", "narrow_top_p", "top_k")
    ]
    assert [row["temperature"] for row in found["samplings"]] == [0.0, 0.6, 0.1, 0.8]
    for row in found["samplings"]:
        assert 0 < row["share"]["low"] <= row["share"]["high"] < 1
        assert all(values["n"] == 3 and values["low"] > 0 for values in row["parts"].values())
        lows = sum(values["low"] for values in row["parts"].values())
        highs = sum(values["high"] for values in row["parts"].values())
        assert lows <= 1.0001 and highs >= 0.9999  # in each round they add up to 1


def test_the_memory(engine: Path, document: dict[str, Any]) -> None:
    found, manifest = document["memory"], read_manifest(engine)
    assert found["kv_bytes"] == 2 * 2 * 2 * 16 * 4 * 256 * 4  # float32
    assert found["engine_bytes"] == manifest.bytes
    imports, loaded, peak = (found[f"{name}_rss_bytes"] for name in ("imports", "loaded", "peak"))
    # Python, numpy and onnxruntime; what this process holds beside them, torch, does not count.
    assert 20e6 < imports["median"] < 200e6
    assert imports["median"] + found["kv_bytes"] < loaded["median"] <= peak["median"]
    expected = (peak["median"] - found["kv_bytes"]) / found["engine_bytes"]
    assert found["ratio"]["median"] == pytest.approx(expected, rel=1e-4)


def test_the_forms(engine: Path, document: dict[str, Any]) -> None:
    found, manifest = document["forms"], read_manifest(engine)
    assert (found["weights"], found["batch_weights"]) == ("int4_rtn", "int8_rows")
    assert found["batch_from"] in (None, 2, 4, 8, 16, 32, 64)
    assert found["from_first"] == manifest.verify["batch"]["from_first"]


def test_the_ratios_are_what_a_check_compares(document: dict[str, Any]) -> None:
    figures = figures_of(document, "it")
    assert list(figures) == [
        "interference p50_ratio",
        "interference p99_ratio",
        "interference ttft_ratio",
        "prefix ratio",
        "share outside the model, greedy",
        "share outside the model, top_p",
        "share outside the model, narrow_top_p",
        "share outside the model, top_k",
        "memory ratio",
    ]
    assert not any(figure.more_is_better for figure in figures.values())
    assert figures["prefix ratio"].value == document["prefix"]["ratio"]["median"]


def test_an_earlier_run_is_repeated_as_it_was(engine: Path) -> None:
    before = measured(engine, parts=("prefix",), seed=3, threads=1)
    again = repeat_batching(before, engine, silent)
    for name in ("parts", "rounds", "minutes", "seed", "threads"):
        assert again[name] == before[name]
    assert again["interference"] is None and list(figures_of(again, "it")) == ["prefix ratio"]


def test_minutes_end_the_rounds_but_not_the_first(engine: Path) -> None:
    found = measured(engine, parts=("prefix", "memory"), rounds=4, minutes=0.0)
    assert found["rounds_done"] == 1
    assert found["prefix"]["ratio"]["n"] == found["memory"]["ratio"]["n"] == 1


def test_a_slow_sampler_shows(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Sampler.sample

    def slow(*arguments: Any) -> Any:
        time.sleep(0.05)
        return sample(*arguments)

    monkeypatch.setattr(Sampler, "sample", slow)
    for row in measured(engine, parts=("shares",))["shares"]["samplings"]:
        assert row["parts"]["sample"]["median"] > 0.5
        assert row["share"]["median"] > row["parts"]["sample"]["median"]
        assert row["step_ms"]["median"] > 50


def test_slow_chunks_show(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = OrtBackend.run

    def slow(self: OrtBackend, step: Step) -> Any:
        if step.prefill is not None and step.decode:
            time.sleep(0.1)
        return run(self, step)

    monkeypatch.setattr(OrtBackend, "run", slow)
    found = measured(engine, parts=("interference",))["interference"]
    assert found["itl_ms_beside"]["p50"] > 100 > found["itl_ms_alone"]["p50"]
    assert found["p50_ratio"]["median"] > 5
    assert found["ttft_ratio"]["median"] > 1.5


@pytest.mark.parametrize("is_found", [True, False])
def test_a_prefix_that_is_not_found_shows(
    engine: Path, monkeypatch: pytest.MonkeyPatch, is_found: bool
) -> None:
    """Each token of a prompt takes a millisecond, so that the machine's noise does not count."""
    run, leave = OrtBackend.run, PrefixCache.leave

    def slow(self: OrtBackend, step: Step) -> Any:
        if step.prefill is not None:
            time.sleep(1e-3 * len(step.prefill.tokens))
        return run(self, step)

    monkeypatch.setattr(OrtBackend, "run", slow)
    if not is_found:
        monkeypatch.setattr(PrefixCache, "leave", lambda self, slot, *_: leave(self, slot, (), ""))
    found = measured(engine, parts=("prefix",), rounds=3)["prefix"]
    assert found["cached_tokens"] == (128 if is_found else 0)
    assert (found["ratio"]["median"] < 0.5) == is_found
    assert found["ttft_ms_cold"]["median"] > 144


def test_what_there_is_no_room_for_is_left_out(small_engine: Path) -> None:
    """It has 4 slots of 96 tokens and one form of the weights."""
    found = measured(small_engine)
    assert found["parts"] == ["prefix", "shares", "memory"]
    assert found["interference"] is None and found["forms"] is None
    assert found["left_out"] == {
        "interference": "a slot holds 96 tokens; 192 are needed",
        "forms": "the engine has one form of the weights; precision.batch_weights adds a second",
    }
    assert found["prefix"]["prefix_tokens"] == 48
    with pytest.raises(MeasurementError, match="interference cannot be measured: a slot holds 96"):
        measured(small_engine, parts=("prefix", "interference"))


def test_one_slot(engine: Path, tmp_path: Path) -> None:
    """The limits of a profile may be below what the engine was built for."""
    narrow = tmp_path / "narrow"
    shutil.copytree(engine, narrow)
    file = narrow / "engine.json"
    raw = json.loads(file.read_text(encoding="utf-8"))
    raw["profile"]["limits"]["slots"] = 1
    file.write_text(json.dumps(raw), encoding="utf-8")
    found = measured(narrow)
    assert list(found["left_out"]) == ["interference"]
    assert "1 slot; streams and a long prompt" in found["left_out"]["interference"]
    assert found["shares"]["rows"] == 1 and found["prefix"]["cached_tokens"] == 128


def test_the_largest_steps_use_the_whole_pool(engine: Path) -> None:
    decode, mixed = largest_steps(4, 256, 64)
    assert [(row.slot, row.position) for row in decode.decode] == [(n, 255) for n in range(4)]
    assert mixed.prefill is not None and len(mixed.decode) == 3
    assert (mixed.prefill.slot, mixed.prefill.start, len(mixed.prefill.tokens)) == (3, 191, 64)
    assert len(mixed.lengths) == 4
    _, short = largest_steps(1, 8, 64)
    assert short.prefill is not None and len(short.prefill.tokens) == 7


def test_a_failed_memory_process_says_why(engine: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(engine, broken)
    (broken / read_manifest(engine).graph).write_bytes(b"nothing")
    with pytest.raises(MeasurementError, match=r"ended with code 1: .*EngineError"):
        MemoryPart(broken, read_manifest(broken), None).run()


def test_the_peak_is_not_that_of_the_parent() -> None:
    """What a process had resident before it ran its program was its parent's."""
    code = (
        "import subprocess, sys\n"
        "held = b'x' * 400_000_000\n"
        "own = 'from edgellama.benchmark.environment import peak_rss_bytes as p; print(p())'\n"
        "print(subprocess.check_output([sys.executable, '-c', own], text=True))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1e6 < int(done.stdout) < 200e6


def test_streams_are_cancelled_on_the_way_out(engine: Path) -> None:
    with Engine.load(engine) as loaded:
        begun = threading.Event()
        with running(loaded, [fixed_length((1, 2, 3), 250)], begun.set) as [stream]:
            begun.wait()
        assert loaded.stats().running == 0 and stream.has_ended and stream.tokens < 250
        with pytest.raises(MeasurementError, match="CANCELLED"):
            stream.complete()
        short = EngineStream(loaded, fixed_length((1, 2, 3), 2))
        assert short.complete().reason is FinishReason.MAX_TOKENS
        assert short.tokens == short.times.tokens == 2


@pytest.mark.parametrize(("limit", "said"), [(NEVER, None), (8, 8)])
def test_from_where_on_the_second_form_is_taken(engine: Path, limit: int, said: int | None) -> None:
    manifest = read_manifest(engine)
    backend = OrtBackend.load(engine, manifest, batch_from=limit)
    assert weight_forms(backend, manifest)["batch_from"] == said
    unmeasured = replace(manifest, verify={})
    assert weight_forms(backend, unmeasured)["from_first"] is None
    backend.close()
