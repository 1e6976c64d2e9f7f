"""Runs that are killed at random moments: what is found afterwards is whole, or nothing."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgellama.calibration.calibrate import calibrate
from edgellama.calibration.recipe import Recipe
from edgellama.calibration.samples import Samples
from edgellama.calibration.scale_files import load_scales
from edgellama.export.checkpoint import open_checkpoint
from edgellama.export.resolve import resolve_model
from edgellama.export.to_onnx import export_portable
from edgellama.optimize.build import build_engine
from edgellama.optimize.bundle import open_bundle
from edgellama.optimize.finish import finish_bundle
from edgellama.profiles.profile import load_profile
from edgellama.runtime.manifest import check_files, read_manifest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
KILLS = 20
Work = Callable[..., object]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Start a function in a process whose libraries are loaded already: kills then hit the work."""
    monkeypatch.syspath_prepend(str(ROOT))  # the other process imports this module by its name
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "edgellama.calibration.calibrate",
            "edgellama.export.to_onnx",
            "edgellama.optimize.build",
            "modelopt.torch.quantization",
        ]
    )

    def run(target: Work, *args: object) -> Any:
        process = context.Process(target=target, args=args)
        process.start()
        return process

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def kill_at_random(
    start: Callable[..., Any], work: Work, args: tuple[object, ...], out: Path
) -> int:
    """Kill `work(*args, out)` 20 times at random moments; then let it end.

    Whenever `out` is there, it must be what an untouched run writes. Returns how many runs had
    ended before their kill: their result is removed, so that the next one has something to do.
    """
    untouched = out.with_name("untouched")
    process = start(work, *args, untouched)
    began = time.monotonic()
    process.join()
    assert process.exitcode == 0
    seconds = time.monotonic() - began
    draw = random.Random(20261121)
    killed = ended = 0
    while killed < KILLS:
        process = start(work, *args, out)
        process.join(draw.uniform(0, seconds))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        if out.exists():
            assert content(out) == content(untouched)
            ended += 1
            for path in out.iterdir():
                path.unlink()
            out.rmdir()
        assert ended <= 2 * KILLS, "the kills come too late to prove anything"
    process = start(work, *args, out)
    process.join()
    assert process.exitcode == 0
    assert content(out) == content(untouched)
    assert sorted(path.name for path in out.parent.iterdir()) == sorted([out.name, "untouched"])
    return ended


def test_a_killed_export_leaves_a_whole_model_or_none(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    kill_at_random(start, export_portable, (resolve_model("tiny"),), tmp_path / "model")


def make_bundle(model: Path, out: Path) -> None:
    """Write a small bundle; at module level, as another process looks it up."""
    shipped = load_profile("l4-1b")
    wanted = replace(
        shipped,
        precision=replace(shipped.precision, block_size=32),
        limits=replace(shipped.limits, slots=2, capacity=64),
    )
    build_engine(wanted, model, out, bundle=True)


def test_a_killed_bundle_is_whole_or_not_there(start: Callable[..., Any], tmp_path: Path) -> None:
    kill_at_random(start, make_bundle, (resolve_model("tiny"),), tmp_path / "bundle")
    open_bundle(tmp_path / "bundle")


def finish(bundle: Path, out: Path) -> None:
    """Finish a bundle for the GPU of its profile, without one."""
    finish_bundle(bundle, out, backend="tensorrt-rtx")


def test_a_killed_finish_leaves_a_whole_engine_or_none(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    """Plans differ from build to build, so an engine is held to its own manifest."""
    pytest.importorskip("tensorrt_rtx")
    bundle, out = tmp_path / "bundle", tmp_path / "engine"
    make_bundle(resolve_model("tiny"), bundle)
    draw = random.Random(20261122)
    process = start(finish, bundle, out)
    began = time.monotonic()
    process.join()
    seconds = time.monotonic() - began
    before = content(out)
    replaced = 0
    for _ in range(KILLS):
        process = start(finish, bundle, out)
        process.join(draw.uniform(0, seconds))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        if out.exists():  # not so where the kill hit between the two renames
            check_files(out, read_manifest(out))
            replaced += content(out) != before
            before = content(out)
    assert replaced < KILLS, "the kills come too late to prove anything"
    finish(bundle, out)
    check_files(out, read_manifest(out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "engine"]
    open_bundle(bundle)


def test_a_killed_calibration_goes_on_to_the_same_scales(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    draw = random.Random(7)
    sequences = tuple(tuple(draw.choices(range(256), k=64)) for _ in range(4))
    samples = Samples(sequences, "random", requested=256, length=64, seed=7)
    recipe = Recipe(weights="fp8", kv="int8", granularity="channel", capacity=128)
    checkpoint = open_checkpoint(resolve_model("tiny"))
    kill_at_random(start, calibrate, (checkpoint, recipe, samples), tmp_path / "scales")
    scales = load_scales(tmp_path / "scales")
    assert len(scales.cache) == 2 * checkpoint.model.num_layers
