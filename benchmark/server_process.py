"""A server in a process of its own, for as long as a measurement needs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_LOG_BYTES = 2000  # of the end of a failed server's output
_GRACE_SECONDS = 10.0  # from SIGTERM to SIGKILL


class ServerProcessError(RuntimeError):
    """A server that ended before it served; the message has the end of its log."""


def serve_command(engine: Path, *, threads: int | None = None) -> tuple[str, ...]:
    """Return the command that serves an engine directory on a free port."""
    command = (sys.executable, "-m", "edgellama.cli", "serve", str(engine))
    options = ("--port", "0", "--grace", "1", "--json")
    return (*command, *options, *(() if threads is None else ("--threads", str(threads))))


def echo_command(*, step_ms: float, slots: int, capacity: int) -> tuple[str, ...]:
    """Return the command that serves the echo engine on a free port."""
    options = ("--step-ms", str(step_ms), "--slots", str(slots), "--capacity", str(capacity))
    return (sys.executable, "-m", "edgellama.benchmark.echo_engine", *options)


@contextmanager
def server_process(command: Sequence[str]) -> Iterator[str]:
    """Start a server and give its `HOST:PORT`; it and its children are ended on every way out.

    The command prints one JSON document with `target` when clients can connect. It is in a session
    of its own, so that Ctrl-C reaches it through this process only. Raises ServerProcessError.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            yield _target(process, log)
        finally:
            _end(process)


def _target(process: subprocess.Popen[str], log: IO[bytes]) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.rstrip() == "}":
            return str(json.loads("".join(lines))["target"])
    code = process.wait()
    log.seek(max(log.seek(0, os.SEEK_END) - _LOG_BYTES, 0))
    shown = log.read().decode("utf-8", errors="replace").strip()
    raise ServerProcessError(f"the server ended with exit code {code} before it served: {shown}")


def _end(process: subprocess.Popen[str]) -> None:
    """Ask the server to stop, then kill what is left of its session."""
    process.send_signal(signal.SIGTERM)
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    finally:
        if process.stdout is not None:
            process.stdout.close()
        with suppress(ProcessLookupError):  # all of them had ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(_GRACE_SECONDS)
