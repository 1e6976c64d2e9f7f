"""A calibration that is stopped, damaged, repeated; and what its scales are worth."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgellama.calibration.calibrate import calibrate, calibrated_scales
from edgellama.calibration.check_scales import check_model, check_scales
from edgellama.calibration.layers import GROUPS, LayerStream, embedded, weight_name
from edgellama.calibration.partial import STATE_NAME, open_partial, partial_folder
from edgellama.calibration.recipe import CalibrationError, Recipe
from edgellama.calibration.samples import Samples
from edgellama.calibration.scale_files import RECORD_NAME, TENSORS_NAME, load_scales, read_record
from edgellama.export.checkpoint import Checkpoint, open_checkpoint
from edgellama.profiles.profile import Precision, Profile, load_profile
from edgellama.runtime.text import TextCodec

RECIPE = Recipe("fp8", kv="int8", granularity="channel", capacity=512)
PRECISION = Precision(weights="fp8", embedding="int8", kv="int8", block_size=32)
STEPS = 5  # of progress, a layer: its pass and four groups


class Stopped(Exception):
    """What ends a run of these tests."""


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def small(samples: Samples) -> Samples:
    """128 tokens in 2 sequences: the arithmetic is not what these tests look at."""
    return replace(samples, sequences=tuple(row[:64] for row in samples.sequences[:2]))


@pytest.fixture(scope="module")
def whole(tiny: Checkpoint, small: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scales of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("scales") / "fp8"
    calibrate(tiny, RECIPE, small, out)
    return out


def run_until(tiny: Checkpoint, small: Samples, out: Path, last: int) -> int:
    """Calibrate until `last` steps are done; returns the steps that were done at the start."""
    seen: list[int] = []

    def stop(_stage: str, done: int, _total: int) -> None:
        seen.append(done)
        if done >= last:
            raise Stopped

    with pytest.raises(Stopped):
        calibrate(tiny, RECIPE, small, out, stop)
    return seen[0]


def test_the_scales_fit_the_model_and_come_back_from_disk(tiny: Checkpoint, whole: Path) -> None:
    scales = load_scales(whole)
    check_scales(scales, tiny.model, PRECISION)
    assert len(scales.linears) == 7 * tiny.model.num_layers
    assert len(scales.cache) == 2 * tiny.model.num_layers
    record = json.loads((whole / RECORD_NAME).read_text(encoding="utf-8"))
    assert record["model"]["name"] == "tiny"
    assert record["text"]["tokens"] == 128
    assert set(record["tools"]) == {"nvidia-modelopt", "torch", "transformers"}
    assert not partial_folder(whole).exists()


@pytest.mark.parametrize("last", [1, STEPS + 2, 3 * STEPS, 4 * STEPS])
def test_a_stopped_run_goes_on_at_its_layer(
    tiny: Checkpoint, small: Samples, whole: Path, tmp_path: Path, last: int
) -> None:
    out = tmp_path / "out"
    assert run_until(tiny, small, out, last) == 0
    assert not out.exists()
    first: list[int] = []
    calibrate(tiny, RECIPE, small, out, lambda _stage, done, _total: first.append(done))
    # Progress reaches the end of a layer just before the layer is kept.
    assert first[0] == (last - 1) // STEPS * STEPS
    assert content(out) == content(whole)


def test_a_killed_process_leaves_what_the_next_one_needs(
    tiny: Checkpoint, small: Samples, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    recipe = replace(RECIPE, weights=None)  # a layer is one step, and modelopt is not imported
    calibrate(tiny, recipe, small, whole)
    script = (
        "import json, sys, time, torch\n"
        "from pathlib import Path\n"
        "from edgellama.calibration.calibrate import calibrate\n"
        "from edgellama.calibration.recipe import Recipe\n"
        "from edgellama.calibration.samples import Samples\n"
        "from edgellama.export.checkpoint import open_checkpoint\n"
        "torch.set_num_threads(1)\n"
        "model, out, recipe, samples = sys.argv[1:]\n"
        "raw = json.loads(samples)\n"
        "raw['sequences'] = tuple(map(tuple, raw['sequences']))\n"
        "def wait(stage, done, total):\n"
        "    if done == 3:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(600)\n"
        "calibrate(open_checkpoint(Path(model)), Recipe(**json.loads(recipe)), Samples(**raw),\n"
        "          Path(out), wait)\n"
    )
    settings = [json.dumps(recipe.as_dict()), json.dumps(vars(small))]
    command = [sys.executable, "-c", script, str(tiny.folder), str(out), *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(CalibrationError, match="another process is calibrating"):
            calibrate(tiny, recipe, small, out)
        os.kill(process.pid, signal.SIGKILL)
    first: list[int] = []
    calibrate(tiny, recipe, small, out, lambda _stage, done, _total: first.append(done))
    assert first[0] == 2
    assert content(out) == content(whole)


@pytest.mark.parametrize(
    "damaged",
    [
        ["layer-0"],
        ["layer-2"],
        ["outputs-2"],
        ["outputs-1", "outputs-2"],
        ["layer-1", "outputs-2"],
        [STATE_NAME],
    ],
)
def test_damaged_files_of_a_stopped_run_are_made_again(
    tiny: Checkpoint, small: Samples, whole: Path, tmp_path: Path, damaged: list[str]
) -> None:
    out = tmp_path / "out"
    run_until(tiny, small, out, 3 * STEPS + 1)
    for name in damaged:
        path = partial_folder(out) / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x55
        path.write_bytes(data)
    calibrate(tiny, RECIPE, small, out)
    assert content(out) == content(whole)


def test_another_recipe_starts_from_the_first_layer(
    tiny: Checkpoint, small: Samples, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_until(tiny, small, out, 3 * STEPS)
    first: list[int] = []
    other = replace(RECIPE, granularity="tensor")
    scales = calibrate(tiny, other, small, out, lambda _stage, done, _total: first.append(done))
    assert first[0] == 0
    assert all(amax.shape == (1,) for amax in scales.cache.values())


def test_a_failed_block_keeps_the_working_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stopped), open_partial(out, "a"):
        raise Stopped
    assert partial_folder(out).is_dir()
    with open_partial(out, "a") as partial:
        assert partial.outputs(0) is None and partial.scales(0) is None
    assert not partial_folder(out).exists()


@pytest.mark.parametrize("name", [TENSORS_NAME, RECORD_NAME])
def test_a_damaged_artefact_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    for keep in (0, 1, 100, len((whole / name).read_bytes()) - 3):
        folder = tmp_path / f"{keep}"
        folder.mkdir()
        for other, data in content(whole).items():
            (folder / other).write_bytes(data[:keep] if other == name else data)
        with pytest.raises(CalibrationError, match=name):
            load_scales(folder)
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / name).write_bytes((whole / name).read_bytes())
    with pytest.raises(CalibrationError, match=r"no scales\.json|scales\.safetensors is missing"):
        load_scales(folder)


def foreign() -> Iterator[tuple[str, Precision, dict[str, int]]]:
    yield "weights 'fp8'", replace(PRECISION, weights="int4_awq"), {}
    yield "kv 'int8'", replace(PRECISION, kv="fp8"), {}
    yield "model.layers.4.mlp.down_proj.weight are missing", PRECISION, {"num_layers": 5}
    yield "do not belong to this model", PRECISION, {"num_layers": 3}
    yield "cache.0.key has shape", PRECISION, {"num_kv_heads": 4}


@pytest.mark.parametrize("message, precision, change", list(foreign()))
def test_scales_of_something_else_are_refused(
    tiny: Checkpoint, whole: Path, message: str, precision: Precision, change: dict[str, int]
) -> None:
    with pytest.raises(CalibrationError, match=message):
        check_scales(load_scales(whole), replace(tiny.model, **change), precision)  # type: ignore[arg-type]


def test_scales_of_another_training_are_refused(
    tiny: Checkpoint, whole: Path, tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    record = read_record(whole)
    copy = tmp_path / "copy"
    shutil.copytree(tiny.folder, copy)  # other file times, the same weights
    os.utime(copy / "model.safetensors", (1, 1))
    check_model(record, open_checkpoint(copy))
    with pytest.raises(CalibrationError, match="measured on other weights \\(of 'tiny'\\)"):
        check_model(record, open_checkpoint(make_checkpoint()))


def profile_for(precision: Precision, tokens: int) -> Profile:
    profile = load_profile("cpu-tiny")
    calibration = replace(profile.calibration, tokens=tokens, length=64)
    return replace(profile, precision=precision, calibration=calibration)


def test_scales_are_reused_while_nothing_changes(
    tiny: Checkpoint, codec: TextCodec, tmp_path: Path
) -> None:
    runs: list[str] = []

    def count(stage: str, done: int, _total: int) -> None:
        if done == 0:
            runs.append(stage)

    folder = tmp_path / "scales"
    profile = profile_for(PRECISION, 64)
    first = calibrated_scales(tiny, codec, profile, None, folder, count)
    again = calibrated_scales(tiny, codec, profile, None, folder, count)
    assert len(runs) == 1
    assert all(np.array_equal(first.cache[name], again.cache[name]) for name in first.cache)
    more = profile_for(PRECISION, 65)
    calibrated_scales(tiny, codec, more, None, folder, count)
    assert len(runs) == 2
    (folder / TENSORS_NAME).write_bytes(b"")
    calibrated_scales(tiny, codec, more, None, folder, count)
    assert len(runs) == 3


def test_a_profile_without_scales_is_refused(
    tiny: Checkpoint, codec: TextCodec, tmp_path: Path
) -> None:
    profile = profile_for(replace(PRECISION, weights="int8", kv="fp32"), 64)
    with pytest.raises(CalibrationError, match="nothing to calibrate"):
        calibrated_scales(tiny, codec, profile, None, tmp_path / "scales")


def test_awq_refuses_a_width_that_is_not_whole_blocks(
    tiny: Checkpoint, small: Samples, tmp_path: Path
) -> None:
    odd = replace(tiny, model=replace(tiny.model, intermediate_size=736))
    recipe = Recipe("int4_awq", block_size=128, awq="awq_lite")
    with pytest.raises(CalibrationError, match="736 is no multiple of it; use block size 32"):
        calibrate(odd, recipe, small, tmp_path / "scales")


def test_a_folder_with_other_things_is_kept(
    tiny: Checkpoint, small: Samples, tmp_path: Path
) -> None:
    def never(_stage: str, _done: int, _total: int) -> None:
        raise AssertionError("refused too late")

    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CalibrationError, match=r"holds notes\.txt"):
        calibrate(tiny, RECIPE, small, tmp_path, never)
    with pytest.raises(CalibrationError, match=r"notes\.txt is a file"):
        calibrate(tiny, RECIPE, small, tmp_path / "notes.txt", never)


@pytest.mark.parametrize(
    "awq, share", [("awq_lite", 0.98), pytest.param("awq_full", 0.8, marks=pytest.mark.slow)]
)
def test_awq_loses_less_than_rounding_to_nearest(
    tiny: Checkpoint, samples: Samples, tmp_path: Path, awq: str, share: float
) -> None:
    """The squared error of every linear's output on text that was not calibrated on."""
    block = 32
    held_out = samples.sequences[2:]
    recipe = Recipe("int4_awq", block_size=block, awq=awq)
    seen = replace(samples, sequences=samples.sequences[:2])
    scales = calibrate(tiny, recipe, seen, tmp_path / "scales")

    def rounded(weight: torch.Tensor, amax: torch.Tensor) -> torch.Tensor:
        step = (amax / 7).repeat_interleave(block, dim=1)
        return (weight / step).round().clamp(-8, 7) * step

    stream, states = LayerStream(tiny), embedded(tiny, held_out)
    lost: dict[str, list[float]] = {"awq": [], "rtn": []}
    for layer in range(tiny.model.num_layers):
        flow = stream.run(layer, states, linears=True, kv=False)
        states = flow.outputs
        for group in GROUPS:
            inputs = torch.cat(flow.inputs[group[0]])
            for projection in group:
                name = weight_name(layer, projection)
                weight, found = tiny.read(name).float(), scales.linears[name]
                assert found.pre_scale is not None
                scale = torch.from_numpy(found.pre_scale)
                awq = rounded(weight / scale, torch.from_numpy(found.amax)) * scale
                peak = weight.unflatten(1, (-1, block)).abs().amax(dim=2)
                power = (inputs @ weight.T).square().mean()
                for kind, other in (("awq", awq), ("rtn", rounded(weight, peak))):
                    error = (inputs @ (other - weight).T).square().mean() / power
                    lost[kind].append(float(error))
    assert np.mean(lost["awq"]) < share * np.mean(lost["rtn"])
