"""The process of a system: answers, ends of every kind, and silence between two runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgellama.benchmark.peer_environment import PeerError
from edgellama.benchmark.peer_process import PeerProcess

FAKE = Path(__file__).parent / "fake_system.py"
ALONE = [{"prompt": [1, 2], "output_tokens": 16, "arrival": 0.0}]
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")


def process(folder: Path, how: str = "") -> PeerProcess:
    settings: dict[str, Any] = {"how": how}
    return PeerProcess(sys.executable, FAKE, settings, folder / "log")


def state(pid: int) -> str:
    """Return the kernel's letter for a process: T is stopped, "" gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def wait_for(pid: int, wanted: str) -> None:
    end = time.monotonic() + 10
    while state(pid) not in wanted.split("|"):
        assert time.monotonic() < end, f"{pid} is {state(pid)!r}, not {wanted!r}"
        time.sleep(0.01)


def child_of(pid: int) -> int:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return int(text.split()[0])


def test_it_answers_whatever_its_libraries_print(tmp_path: Path) -> None:
    with process(tmp_path) as system:
        assert system.load(30)["version"] == "7"
        for _ in range(2):
            (times,) = system.run(ALONE, 30)
            assert len(times) == 16 and times[-1] == pytest.approx(0.016)
    assert system.closed
    assert "even in C" in (tmp_path / "log").read_text(encoding="utf-8")


def test_an_error_of_the_system_is_quoted_and_it_goes_on(tmp_path: Path) -> None:
    with process(tmp_path, "raises") as system:
        system.load(30)
        for _ in range(2):
            with pytest.raises(PeerError, match="MemoryError: no room"):
                system.run(ALONE, 30)
        assert not system.closed


def test_what_cannot_load_is_quoted(tmp_path: Path) -> None:
    failure = pytest.raises(PeerError, match=r"(?s)ended with code 1 while it loaded.*no model")
    with failure, process(tmp_path, "no model") as system:
        system.load(30)
    assert system.closed


def test_a_signal_is_named(tmp_path: Path) -> None:
    with process(tmp_path, "dies in decode") as system:
        system.load(30)
        with pytest.raises(PeerError, match=r"(?s)killed by SIGILL while it ran.*even in C"):
            system.run(ALONE, 30)
        assert system.closed
        with pytest.raises(PeerError, match="has ended"):
            system.run(ALONE, 30)


@needs_proc
def test_it_is_ended_at_its_limit(tmp_path: Path) -> None:
    with process(tmp_path, "hangs in decode") as system:
        system.load(30)
        pid = system._process.pid
        with pytest.raises(PeerError, match=r"was ended while it ran: it took over 0\.3 s"):
            system.run(ALONE, 0.3)
        assert system.closed and state(pid) == ""


@needs_proc
def test_it_is_stopped_between_two_runs(tmp_path: Path) -> None:
    with process(tmp_path, "spins") as system:
        system.load(30)
        wait_for(system._process.pid, "T")
        system.run(ALONE, 30)
        wait_for(system._process.pid, "T")


@needs_proc
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, None])
def test_its_children_end_with_it(tmp_path: Path, error: type[BaseException] | None) -> None:
    pids = []
    try:
        with process(tmp_path, "has a child") as system:
            system.load(30)
            pids += [system._process.pid, child_of(system._process.pid)]
            if error is not None:
                raise error
    except (KeyboardInterrupt, ValueError):
        pass
    for pid in pids:
        wait_for(pid, "|Z")  # a child of a killed process waits for whoever adopted it


KILLED = """
import os, signal, sys
from pathlib import Path
from edgellama.benchmark.peer_process import PeerProcess
system = PeerProcess(sys.executable, Path(sys.argv[1]), {}, Path(sys.argv[2]))
system.load(30)
print(system._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_proc
def test_no_stopped_process_outlives_a_killed_measurement(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(FAKE), str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_for(int(done.stdout), "|Z")
