"""Run a check in a process of its own: NVIDIA's code may end a process, or never return."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgellama.benchmark.check import Check, Job
from edgellama.benchmark.outcome import FAILED, Outcome
from edgellama.benchmark.subject import slug

_LOG_BYTES = 4000  # of the end of a failed check's output
_GRACE_SECONDS = 10.0  # for a killed process to be gone


def run_check(check: Check, job: Job) -> Outcome:
    """Return how the check ended: killed ones and those over their limit have failed.

    The process and its children are ended at the limit, and when this one is interrupted.
    """
    subject = "" if job.subject is None else job.subject.name
    files = job.work / "checks" / slug(f"{check.name} {subject}".strip())
    files.mkdir(parents=True, exist_ok=True)
    given, result, log = files / "job.json", files / "result.json", files / "log.txt"
    result.unlink(missing_ok=True)
    given.write_text(json.dumps(job.as_dict()), encoding="utf-8")
    command = [sys.executable, "-m", "edgellama.benchmark.check_process", check.run]
    began = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, str(given), str(result)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its children end with it
        )
        try:
            code: int | None = process.wait(check.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    found = _read(result, code, check.seconds)
    seconds = round(time.monotonic() - began, 3)
    shown = _tail(log) if found["state"] == FAILED else ""
    return Outcome(check.name, subject, seconds=seconds, log=shown, **found)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the process and its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of them had ended
    process.wait(_GRACE_SECONDS)


def _read(result: Path, code: int | None, limit: float) -> dict[str, Any]:
    """Return state, reason and figures; an end that is not in order overrules the result."""
    found: dict[str, Any] = {"figures": {}}
    if result.is_file():
        found = json.loads(result.read_text(encoding="utf-8"))
    figures = found["figures"]
    if code is None:
        reason = f"ran over its limit of {limit:g} s and was ended"
    elif code < 0:
        when = "when it was done, at the end of its process" if result.is_file() else "on the way"
        reason = f"was killed by {signal.Signals(-code).name} {when}"
    elif not result.is_file():
        reason = f"ended with exit code {code} and without a result"
    else:
        return found
    return {"state": FAILED, "reason": reason, "figures": figures}


def _tail(log: Path) -> str:
    content = log.read_bytes()[-_LOG_BYTES:]
    return content.decode("utf-8", errors="replace").strip()
