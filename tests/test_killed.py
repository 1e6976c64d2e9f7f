"""Runs that are killed at random moments: what is found afterwards is whole, or nothing."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgellama.calibration.scale_files import load_scales
from edgellama.export.resolve import resolve_model
from edgellama.export.to_onnx import export_portable

KILLS = 20
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Start a function in a process whose libraries are loaded already: kills then hit the work."""
    context = multiprocessing.get_context("forkserver")
    modules = ["edgellama.export.to_onnx", "edgellama.export.reference"]
    modules += ["edgellama.calibration.calibrate", "modelopt.torch.quantization"]
    context.set_forkserver_preload(modules)

    def run(target: Callable[..., object], *args: object) -> Any:
        process = context.Process(target=target, args=args)
        process.start()
        return process

    yield run


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def kill_at_random(
    start: Start, work: object, out: Path, check: Callable[[], None]
) -> dict[str, bytes]:
    """Kill `work(model, out)` at 20 random moments, `check` what lies there, then let it end.

    Returns the final content of `out`.
    """
    model = resolve_model("tiny")
    process = start(work, model, out.with_name("untouched"))
    began = time.monotonic()
    process.join()
    assert process.exitcode == 0
    whole = time.monotonic() - began
    draw = random.Random(20261121)
    killed = 0
    for _ in range(KILLS):
        process = start(work, model, out)
        process.join(draw.uniform(0, whole))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
        check()
    assert killed >= KILLS // 2, "the kills came too late to prove anything"
    process = start(work, model, out)
    process.join()
    assert process.exitcode == 0
    return content(out)


@pytest.mark.slow
def test_a_killed_export_leaves_a_whole_model_or_none(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "model"

    def check() -> None:
        if out.exists():  # an earlier run had ended: it must still be whole
            assert content(out) == content(tmp_path / "untouched")

    final = kill_at_random(start, export_portable, out, check)
    assert final == content(tmp_path / "untouched")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "untouched"]


# A function of this file could not be found by the other process.
CALIBRATE = """
from edgellama.calibration.calibrate import calibrate
from edgellama.calibration.recipe import Recipe
from edgellama.calibration.samples import Samples
from edgellama.export.checkpoint import open_checkpoint

recipe = Recipe("fp8", kv="int8", granularity="channel", capacity=512)
sequences = tuple(tuple(range(first, first + 64)) for first in (100, 900))
calibrate(open_checkpoint(model), recipe, Samples(sequences, "ids", 128, 64, 0), out)
"""


@pytest.mark.slow
def test_a_killed_calibration_goes_on_and_gives_the_same_scales(
    start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "scales"

    def check() -> None:
        if out.exists():
            load_scales(out)
            assert content(out) == content(tmp_path / "untouched")

    def start_script(script: str, model: Path, folder: Path) -> Any:
        return start(exec, script, {"model": model, "out": folder})

    final = kill_at_random(start_script, CALIBRATE, out, check)
    assert final == content(tmp_path / "untouched")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scales", "untouched"]
