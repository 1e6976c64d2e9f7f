"""What a build quantises with: a checkpoint's own codes, given scales, or new ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from gptq_checkpoint import BLOCK, gptq

from edgellama.calibration.recipe import CalibrationError
from edgellama.export.checkpoint import open_checkpoint
from edgellama.export.error import ExportError
from edgellama.optimize.build import build_engine, optimize_portable
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.portable import export_model
from edgellama.optimize.quantization import PRECISION_KEY, Given
from edgellama.profiles.profile import Profile, load_profile
from edgellama.runtime.manifest import read_manifest


def profile(weights: str, kv: str = "fp32", **changes: Any) -> Profile:
    base = load_profile("cpu-tiny")
    precision = replace(base.precision, weights=weights, embedding="fp32", kv=kv, **changes)
    settings = replace(base.calibration, tokens=128, length=64, awq="awq_lite")
    limits = replace(base.limits, capacity=96)
    return replace(base, precision=precision, limits=limits, calibration=settings)


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


def test_the_codes_of_a_checkpoint_are_kept(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint()
    codes = gptq(folder)
    wanted = profile("int4_awq")
    export_model(folder, tmp_path / "model", wanted)
    model = ir.load(tmp_path / "model" / "model.onnx")
    assert json.loads(model.metadata_props[PRECISION_KEY])["weights"] == "int4_awq"
    for name, code in codes.items():
        tensor = model.graph.initializers[f"{name}.codes"].const_value
        assert tensor is not None
        assert tensor.numpy().dtype == ml_dtypes.int4
        np.testing.assert_array_equal(tensor.numpy().astype(np.int8).T, code)
    report = build_engine(wanted, folder, tmp_path / "engine", given=Given(exact=True))
    assert report.verify["kernel_kl_mean"] < 0.01
    record = read_manifest(tmp_path / "engine").build["quantization"]
    assert record == {"checkpoint": f"gptq, int4_awq, blocks of {BLOCK}"}


def test_what_symmetric_blocks_cannot_say_is_rounded_and_reported(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint()
    codes = gptq(folder, zero=5)
    with pytest.raises(ExportError, match="--exact"):
        build_engine(profile("int4_awq"), folder, tmp_path / "e", given=Given(exact=True))
    build_engine(profile("int4_awq"), folder, tmp_path / "e")
    lost = read_manifest(tmp_path / "e").build["quantization"]["requantized"]
    assert lost["linears"] == len(codes)
    assert 0.001 < lost["largest_relative_error"] < 0.2


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (profile("int4_rtn"), r"round it a second time. Use one of int4_awq, int8, fp16"),
        (profile("int4_awq", block_size=64), r"blocks of 32, precision.block_size is 64"),
    ],
)
def test_codes_are_not_rounded_twice(
    make_checkpoint: Callable[..., Path], tmp_path: Path, wanted: Profile, message: str
) -> None:
    folder = make_checkpoint(intermediate_size=128)
    gptq(folder)
    with pytest.raises(BuildError, match=message):
        build_engine(wanted, folder, tmp_path / "engine")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def calibrated(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibrated") / "engine"
    build_engine(profile("int4_awq", "int8"), checkpoint, out)
    return out


def test_scales_lie_beside_the_engine_and_serve_another(
    checkpoint: Path, calibrated: Path, tmp_path: Path
) -> None:
    scales = calibrated.with_name("engine.scales")
    again = build_engine(
        profile("int4_awq", "int8"), checkpoint, tmp_path / "again", given=Given(scales)
    )
    assert not (tmp_path / "again.scales").exists()
    first = read_manifest(calibrated)
    second = read_manifest(again.engine)
    assert first.files == second.files
    assert first.build["quantization"] == second.build["quantization"]


def test_scales_of_another_model_or_for_fewer_positions_are_refused(
    checkpoint: Path, calibrated: Path, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    given = Given(calibrated.with_name("engine.scales"))
    wanted = profile("int4_awq", "int8")
    longer = replace(wanted, limits=replace(wanted.limits, capacity=128))
    with pytest.raises(BuildError, match=r"for 96 positions, the profile's slots hold 128"):
        build_engine(longer, checkpoint, tmp_path / "engine", given=given)
    other = make_checkpoint(initializer_range=0.1)
    with pytest.raises(CalibrationError, match="measured on other weights"):
        build_engine(wanted, other, tmp_path / "engine", given=given)
    for useless, option in ((given, "--scales"), (Given(text=checkpoint), "--calibration-text")):
        with pytest.raises(BuildError, match=rf"{option} .* needs no scales here; leave it out"):
            build_engine(profile("int8"), checkpoint, tmp_path / "engine", given=useless)
    assert list(tmp_path.iterdir()) == []


def test_the_portable_model_makes_the_same_engine(
    checkpoint: Path, calibrated: Path, tmp_path: Path
) -> None:
    wanted = profile("int4_awq", "int8")
    scales = Given(calibrated.with_name("engine.scales"))
    export_model(checkpoint, tmp_path / "model", wanted, given=scales)
    report = optimize_portable(wanted, tmp_path / "model", tmp_path / "engine")
    whole = read_manifest(calibrated).files["model.onnx.data"]
    assert read_manifest(report.engine).files["model.onnx.data"] == whole
    with pytest.raises(BuildError, match=r"exported with precision.weights 'int4_awq'"):
        optimize_portable(profile("int8"), tmp_path / "model", tmp_path / "other")


def test_a_float_portable_model_needs_given_scales(
    checkpoint: Path, calibrated: Path, tmp_path: Path
) -> None:
    export_model(checkpoint, tmp_path / "model", profile("fp32"))
    wanted = profile("int4_awq", "int8")
    with pytest.raises(BuildError, match="give --scales"):
        optimize_portable(wanted, tmp_path / "model", tmp_path / "engine")
    given = Given(calibrated.with_name("engine.scales"))
    report = optimize_portable(wanted, tmp_path / "model", tmp_path / "engine", given=given)
    assert report.verify["kernel_kl_mean"] < 0.01


def test_a_build_that_loses_too_much_fails(checkpoint: Path, tmp_path: Path) -> None:
    wanted = profile("int4_rtn")
    strict = replace(wanted, accuracy=replace(wanted.accuracy, max_perplexity_increase=0.0))
    loose = replace(wanted, accuracy=replace(wanted.accuracy, max_perplexity_increase=9.0))
    measured = build_engine(loose, checkpoint, tmp_path / "loose").verify["accuracy"]
    assert measured["perplexity_increase"] > 0, "this seed must lose something"
    with pytest.raises(BuildError, match=r"accuracy.max_perplexity_increase is 0 "):
        build_engine(strict, checkpoint, tmp_path / "strict")
    assert [path.name for path in tmp_path.iterdir()] == ["loose"]


def test_a_model_without_codes_has_no_exact_ones(checkpoint: Path) -> None:
    plain = open_checkpoint(checkpoint, exact=True)
    assert plain.quantization is None and plain.stored_linears == ()
