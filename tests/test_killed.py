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

from edgellama.export.resolve import resolve_model
from edgellama.export.to_onnx import export_portable

KILLS = 20
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Start a function in a process whose libraries are loaded already: kills then hit the work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["edgellama.export.to_onnx", "edgellama.export.reference"])

    def run(target: Callable[..., object], *args: object) -> Any:
        process = context.Process(target=target, args=args)
        process.start()
        return process

    yield run


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def kill_at_random(
    start: Start, work: Callable[[Path, Path], object], out: Path, check: Callable[[], None]
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
