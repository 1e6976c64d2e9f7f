"""Two forms of the weights in one engine: each computes what an engine of its own would."""

from __future__ import annotations

from collections.abc import Callable
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
from edgellama.runtime.engine import Engine
from edgellama.runtime.manifest import EngineError, read_manifest
from edgellama.runtime.ort import NEVER, OrtBackend
from edgellama.runtime.request import Request, Sampling, Stop

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
    assert change.apply(profile("int4_rtn", "int8_rows")).precision.batch_weights == batch
