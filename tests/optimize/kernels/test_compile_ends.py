"""A compilation that is interrupted or killed leaves no process and no file behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("triton")

# More than a test waits for.
WORK = """
import sys
from pathlib import Path
from edgellama.optimize.kernels.compile import compile_kernels
from edgellama.optimize.kernels.kernel_table import specs
wanted = [spec for _, spec in specs(89)]
compile_kernels(wanted, 89, code="cubin", cache=Path(sys.argv[1]), progress=print)
"""


def children(pid: int) -> set[int]:
    """Return the processes that a process has started, and theirs."""
    try:
        direct = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return set()
    found = {int(each) for each in direct}
    return found.union(*map(children, found))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.fixture
def compiler(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that compiles into `cache`, in the middle of it; nothing belongs into `tmp`."""
    scratch, cache = tmp_path / "tmp", tmp_path / "cache"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", WORK, str(cache)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "compile kernels 0" in process.stdout.readline()
        assert "compile kernels 1" in process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left(compiler: subprocess.Popen[str], tmp_path: Path, how: int) -> None:
    cache = tmp_path / "cache"
    started = children(compiler.pid)
    assert len(started) >= 2 and any(cache.glob("scratch-*")), "it is in the middle"
    compiler.send_signal(how)
    assert compiler.wait(30) != 0
    assert wait_for(lambda: not any(map(is_running, started)), 30), "processes live on"
    assert not list((tmp_path / "tmp").iterdir())
    kept = list(cache.iterdir())
    assert kept and {path.suffix for path in kept} == {".zip"}, "whole results only"
