"""A system in a process of its own, in the environment of that system; stopped while it is idle."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from edgellama.benchmark.peer_environment import TAIL, PeerError

WORKERS = Path(__file__).parent / "peer_workers"
_GRACE_SECONDS = 10.0  # for a killed process to be gone
_READ = 1 << 16


class PeerProcess:
    """Runs `file`, a worker, with an interpreter; see `peer_workers/answer.py` for what is said.

    Standard error goes to the file `log`. Between two calls all threads of the process are stopped:
    one that waits busily would take time from the system that is measured. Every error is a
    PeerError, and ends the process unless it is the worker's own.
    """

    def __init__(
        self,
        python: str,
        file: Path,
        settings: Mapping[str, Any],
        log: Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self._rest = b""
        self._closed = False
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                # Isolated: the paths of this environment are not those of that one.
                [python, "-I", str(WORKERS / "answer.py"), str(file), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env={**os.environ, **(variables or {})},
                start_new_session=True,  # so that its children are stopped and ended with it
            )

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it has ended, and can be asked no more."""
        return self._closed

    def load(self, seconds: float) -> dict[str, Any]:
        """Wait until the system is loaded; returns `version` and `load_seconds`."""
        try:
            return self._answer("while it loaded", seconds)
        finally:
            self._signal(signal.SIGSTOP)

    def run(self, requests: Sequence[Mapping[str, Any]], seconds: float) -> list[list[float]]:
        """Run requests; returns for each the seconds to each token."""
        if self._closed:
            raise PeerError("has ended; start another")
        self._signal(signal.SIGCONT)
        try:
            stdin = self._process.stdin
            assert stdin is not None
            with suppress(BrokenPipeError):  # how it ended is said below
                stdin.write(json.dumps({"requests": requests}).encode() + b"\n")
                stdin.flush()
            found = self._answer("while it ran", seconds)
        finally:
            self._signal(signal.SIGSTOP)
        if "error" in found:
            raise PeerError(found["error"])
        times: list[list[float]] = found["times"]
        return times

    def close(self) -> None:
        """Kill the process and its children."""
        self._signal(signal.SIGKILL)
        self._closed = True
        self._process.wait(_GRACE_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what was written and never read
                pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        # Once it is closed its number may be that of another process.
        if not self._closed:
            with suppress(ProcessLookupError):  # all of them had ended
                os.killpg(self._process.pid, number)

    def _answer(self, when: str, seconds: float) -> dict[str, Any]:
        """Return the next line; raises PeerError when the process ends or the time is over."""
        stdout = self._process.stdout
        assert stdout is not None
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, end - time.monotonic())):
                    self.close()
                    raise PeerError(f"was ended {when}: it took over {seconds:g} s{self._tail()}")
                piece = os.read(stdout.fileno(), _READ)
                if not piece:
                    code = self._process.wait(_GRACE_SECONDS)
                    self.close()
                    raise PeerError(f"{_how(code)} {when}{self._tail()}")
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _tail(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()[-TAIL:]
        return f"; its output ends with: {text}" if text else "; it printed nothing"


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
