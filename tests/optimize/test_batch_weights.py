"""Two forms of the weights in one engine: each computes what an engine of its own would."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnx

from edgellama.cli.override import Override
from edgellama.export.to_onnx import export_portable
from edgellama.optimize import quantized_weight
from edgellama.optimize.build import optimize_portable
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.quantize import QuantizedRows, quantize_rows
from edgellama.profiles.plan import make_plan
from edgellama.profiles.profile import Precision, Profile, ProfileError, load_profile
from edgellama.runtime.completion import Collector
from edgellama.runtime.engine import Engine
from edgellama.runtime.manifest import EngineError, read_manifest
from edgellama.runtime.ort import NEVER, OrtBackend
from edgellama.runtime.request import Request, Sampling, Stop
from edgellama.runtime.step import DecodeRow, PrefillChunk, Step

IDS = [(7 * n * n + 3 * n) % 250 for n in range(40)]


def profile(weights: str, batch: str | None) -> Profile:
    base = load_profile("cpu-tiny")
    precision = Precision(weights, "fp32", "fp32", block_size=32, batch_weights=batch)
    limits = replace(base.limits, slots=3, capacity=96, prefill_chunk=16)
    return replace(base, precision=precision, limits=limits)


@pytest.fixture(scope="module")
def portable(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("portable") / "model"
    export_portable(make_checkpoint(tie_word_embeddings=False, intermediate_size=80), out)
    return out


@pytest.fixture(scope="module")
def engines(portable: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return engines with the first form alone, the second alone, and both."""
    folder = tmp_path_factory.mktemp("engines")
    wanted = {
        "first": profile("int4_rtn", None),
        "second": profile("int8_rows", None),
        "both": profile("int4_rtn", "int8_rows"),
    }
    for name, each in wanted.items():
        optimize_portable(each, portable, folder / name)
    return {name: folder / name for name in wanted}


def backend(folder: Path, batch_from: int | None = None) -> OrtBackend:
    return OrtBackend.load(folder, read_manifest(folder), batch_from=batch_from)


def test_each_form_is_an_engine_of_its_own(engines: dict[str, Path]) -> None:
    first = backend(engines["first"]).run_tokens(0, IDS, 0)
    second = backend(engines["second"]).run_tokens(0, IDS, 0)
    assert np.abs(first - second).max() > 0.05, "the forms differ"
    both = backend(engines["both"], NEVER)
    np.testing.assert_array_equal(both.run_tokens(0, IDS, 0), first)
    both.batch_from = 1
    np.testing.assert_array_equal(both.run_tokens(0, IDS, 0), second)


def test_the_tokens_of_a_step_choose_the_form(engines: dict[str, Path]) -> None:
    both = backend(engines["both"], 5)
    first, second = backend(engines["first"]), backend(engines["second"])
    np.testing.assert_array_equal(both.run_tokens(1, IDS[:4], 0), first.run_tokens(1, IDS[:4], 0))
    np.testing.assert_array_equal(both.run_tokens(1, IDS[:5], 0), second.run_tokens(1, IDS[:5], 0))


def test_the_forms_share_the_cache(engines: dict[str, Path]) -> None:
    """What the second form wrote is what the first reads: no copy, no other place."""
    both, second = backend(engines["both"], 16), backend(engines["second"])
    for one in (both, second):
        one.run_tokens(2, IDS[:32], 0)
    written = second.cache(2, 32)
    for name, array in both.cache(2, 32).items():
        np.testing.assert_array_equal(array, written[name])
    behind = both.run_tokens(2, IDS[32:36], 32)
    first = backend(engines["first"])
    for name, array in first.cache(2, 32).items():
        array[...] = written[name]
    np.testing.assert_array_equal(first.run_tokens(2, IDS[32:36], 32), behind)


def test_the_limit_is_measured_where_it_is_not_given(engines: dict[str, Path]) -> None:
    assert backend(engines["both"]).batch_from in (2, 4, 8, 16, 32, 64, NEVER)
    with pytest.raises(EngineError, match=r"batch_from is 4, but engine .* has one form"):
        backend(engines["first"], 4)
    with pytest.raises(ValueError, match="there is one form"):
        backend(engines["first"]).batch_from = 4


def test_an_engine_generates_with_both(engines: dict[str, Path]) -> None:
    with Engine.load(engines["both"]) as engine:
        request = Request(tuple(IDS[:20]), Sampling(temperature=0.0), Stop(max_new_tokens=8))
        result = engine.generate(request)
    assert len(result.token_ids) <= 8 and result.token_ids


def fed(both: OrtBackend, lengths: Sequence[int]) -> tuple[int, ...]:
    """Feed prompts of these lengths to the slots, pinned; returns the lengths."""
    for slot, length in enumerate(lengths):
        both.run_tokens(slot, IDS[slot : slot + length], 0, is_pinned=True)
    return tuple(lengths)


def test_what_is_pinned_is_what_the_first_form_alone_computes(engines: dict[str, Path]) -> None:
    both, first = backend(engines["both"], 1), backend(engines["first"])
    lengths = fed(both, (9, 12, 5))
    assert fed(first, lengths) == lengths
    rows = (DecodeRow(0, 7, 9, True), DecodeRow(1, 8, 12, True))
    chunk = PrefillChunk(2, (3, 1, 4, 1), 5, is_last=True)
    logits = both.run(Step(rows, chunk, lengths)).copy()
    alone = first.run(Step(rows, None, lengths))
    np.testing.assert_array_equal(logits[:2], alone)
    for slot, length in ((0, 10), (1, 13)):
        written = first.cache(slot, length)
        for name, array in both.cache(slot, length).items():
            np.testing.assert_array_equal(array, written[name])
    unpinned = tuple(row._replace(is_pinned=False) for row in rows)
    assert np.abs(both.run(Step(unpinned, chunk, lengths))[:2] - alone).max() > 0.01


def test_what_is_pinned_does_not_depend_on_what_runs_beside_it(engines: dict[str, Path]) -> None:
    """One row and three; one token of a prompt and four: sums of one row have another order."""
    both = backend(engines["both"], NEVER)
    lengths = fed(both, (9, 12, 5))
    rows = tuple(DecodeRow(slot, 7, lengths[slot], True) for slot in range(3))
    together = both.run(Step(rows, None, lengths)).copy()
    for slot, row in enumerate(rows):
        alone = both.run(Step((row,), None, lengths))
        np.testing.assert_array_equal(alone[0], together[slot])
    whole = both.run_tokens(0, IDS[:17], 0, is_pinned=True)
    parts = [
        both.run_tokens(0, IDS[a:b], a, is_pinned=True) for a, b in ((0, 1), (1, 16), (16, 17))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    both.run_tokens(0, IDS[:16], 0, is_pinned=True)
    last = PrefillChunk(0, (IDS[16],), 16, is_last=True, is_pinned=True)
    np.testing.assert_array_equal(both.run(Step((), last, (16, 12, 5)))[0], whole[16])


@pytest.mark.parametrize("form", ["first", "fastest"])
def test_greedy_requests_among_others_equal_their_solo_runs(
    engines: dict[str, Path], form: str
) -> None:
    """Where they keep the first form; where they take the fastest, some do not."""
    draw = np.random.default_rng(5)
    with Engine.load(engines["both"], greedy_form=form) as engine:
        assert isinstance(engine._backend, OrtBackend)
        engine._backend.batch_from = 3
        requests = [
            Request(
                tuple(draw.integers(0, 250, draw.integers(2, 40)).tolist()),
                Sampling(temperature=i % 3 / 2, seed=i),
                Stop(max_new_tokens=int(draw.integers(8, 24)), ignore_eos=True),
                cache_salt=f"together {i}",
            )
            for i in range(45)
        ]
        collectors = [Collector() for _ in requests]
        for request, collector in zip(requests, collectors, strict=True):
            engine.submit(request, collector)
            time.sleep(float(draw.exponential(0.003)))
        together = [collector.result().token_ids for collector in collectors]
        alone = [engine.generate(replace(r, cache_salt="alone")).token_ids for r in requests]
    greedy = range(0, len(requests), 3)
    changed = [i for i in greedy if together[i] != alone[i]]
    assert bool(changed) is (form == "fastest"), changed


def test_a_form_is_chosen_where_there_are_two(engines: dict[str, Path]) -> None:
    with pytest.raises(EngineError, match=r"greedy_form is 'first', but engine .* has one form"):
        Engine.load(engines["first"], greedy_form="first")
    with pytest.raises(EngineError, match="greedy_form is 'last'; it must be 'fastest' or 'first'"):
        Engine.load(engines["both"], greedy_form="last")


def test_tables_are_stored_once(engines: dict[str, Path]) -> None:
    graph = onnx.load(engines["both"] / "model.batch.onnx", load_external_data=False).graph
    files: dict[str, set[str]] = {"model.onnx.data": set(), "model.batch.onnx.data": set()}
    for tensor in graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                files[entry.value].add(tensor.name)
    assert "model.embed_tokens.weight" in files["model.onnx.data"]
    codes = {name for name in files["model.batch.onnx.data"] if name.endswith(".codes")}
    assert len(codes) == 5 * read_manifest(engines["both"]).model.num_layers
    sizes = {name: (engines[name] / "model.onnx.data").stat().st_size for name in engines}
    table = 4 * read_manifest(engines["both"]).model.vocab_size * 32
    beside = (engines["both"] / "model.batch.onnx.data").stat().st_size
    assert sizes["both"] == sizes["first"] and beside < sizes["second"] - table


def test_the_build_reports_both_forms(engines: dict[str, Path]) -> None:
    manifest = read_manifest(engines["both"])
    found = manifest.verify["batch"]
    assert found["accuracy"]["kl_mean"] < 0.2 * manifest.verify["accuracy"]["kl_mean"]
    assert 0 < found["from_first"]["kl_mean"] < 1
    assert "batch" not in read_manifest(engines["first"]).verify
    assert manifest.batch_graph == "model.batch.onnx"


def test_a_second_form_that_is_another_model_is_refused(
    portable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def negated(weight: np.ndarray, bits: int, block_size: int) -> QuantizedRows:
        rows = quantize_rows(weight, bits, block_size)
        return replace(rows, codes=-rows.codes)

    monkeypatch.setattr(quantized_weight, "quantize_rows", negated)
    with pytest.raises(BuildError, match="the weights of large steps diverge by"):
        optimize_portable(profile("fp32", "int8_rows"), portable, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_the_second_form_counts_in_the_plan(engines: dict[str, Path]) -> None:
    model = read_manifest(engines["both"]).model
    one = make_plan(model, profile("int4_rtn", None))
    two = make_plan(model, profile("int4_rtn", "int8_rows"))
    alone = make_plan(model, profile("int8_rows", None))
    table = alone.table_bytes // 2  # embedding and head are apart
    assert one.batch_bytes == 0 and two.batch_bytes == alone.linear_bytes + table
    assert two.total_bytes - one.total_bytes == two.batch_bytes
    assert two.weight_bytes == one.weight_bytes


def test_what_makes_no_second_form_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"is 'int8_rows', as precision\.weights is"):
        profile("int8_rows", "int8_rows")
    with pytest.raises(ProfileError, match="batch_weights is 'int8'; supported: 'int8_rows'"):
        profile("int4_rtn", "int8")


@pytest.mark.parametrize(
    ("change", "batch"),
    [
        (Override(), "int8_rows"),
        (Override(precision="int4_awq"), "int8_rows"),
        (Override(precision="fp32"), None),
        (Override(precision="int8_rows"), None),
        (Override(batch_precision="none"), None),
        (Override(precision="fp32", batch_precision="int8_rows"), "int8_rows"),
    ],
)
def test_a_float_build_has_no_second_form_unless_it_is_asked_for(
    change: Override, batch: str | None
) -> None:
    two = profile("int4_rtn", "int8_rows")
    two = replace(two, precision=replace(two.precision, greedy_form="first"))
    changed = change.apply(two).precision
    assert changed.batch_weights == batch
    assert changed.greedy_form == ("fastest" if batch is None else "first")
