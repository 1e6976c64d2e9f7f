"""Checks that end in every way a check can; imported by the processes that `run_check` starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from edgellama.benchmark.check import Check, Job
from edgellama.benchmark.gpu_facts import Facts
from edgellama.benchmark.outcome import CheckFailed, CheckSkipped

GPU = {
    "name": "planted",
    "compute_capability": "8.9",
    "driver_cuda": "13.2",
    "available_bytes": 1 << 34,
}


PLANTED = Facts("planted", "8.9", None, {}, {}, frozenset())


def silent(_stage: str, _done: int, _total: int) -> None:
    """Hear no progress."""


def planted(name: str, seconds: float = 60, **settings: Any) -> Check:
    """Return a row for one of the checks below."""
    return Check(name, f"proves {name}", f"planted_checks:{name}", (), seconds, **settings)


def machine(_job: Job) -> dict[str, Any]:
    return {
        "gpu": GPU,
        "no_gpu": None,
        "nvidia_smi": {"gpus": [{"name": "planted", "power.draw [W]": "71.2 W"}]},
        "libraries": {
            "tensorrt": {"missing": "module tensorrt cannot be imported"},
            "tensorrt-rtx": {"version": "1.7.1.116"},
        },
        "versions": {"numpy": "2"},
        "packages": [],
        "python": "3.11",
        "system": "planted",
        "cores": 2,
    }


def workstation(job: Job) -> dict[str, Any]:
    """A GPU that is claimed, and all packages that make a bundle."""
    from edgellama.benchmark.gpu_facts import CALIBRATION, COMPILER

    return {**machine(job), "packages": [*COMPILER, *CALIBRATION]}


def passes(job: Job) -> dict[str, Any]:
    return {"known": sorted(job.figures), "subject": job.subject and job.subject.name}


def skips(_job: Job) -> dict[str, Any]:
    raise CheckSkipped("nothing to do", {"found": 1})


def fails(_job: Job) -> dict[str, Any]:
    print("what led to it")
    raise CheckFailed("2 is not 3", {"two": 2})


def breaks(_job: Job) -> dict[str, Any]:
    raise KeyError("a bug")


def aborts(_job: Job) -> dict[str, Any]:
    print("about to abort", flush=True)
    os.abort()


class _AbortsAtExit:
    """As a library whose objects are freed too late."""

    def __del__(self) -> None:
        os.abort()


_kept: list[_AbortsAtExit] = []


def aborts_at_exit(_job: Job) -> dict[str, Any]:
    _kept.append(_AbortsAtExit())
    return {"done": True}


def leaves(_job: Job) -> dict[str, Any]:
    os._exit(7)


def hangs(job: Job) -> dict[str, Any]:
    """Start a child that would write a file, and wait for it."""
    late = job.work / "late"
    code = f"import time, pathlib; time.sleep(2); pathlib.Path({str(late)!r}).touch()"
    subprocess.Popen([sys.executable, "-c", code])
    time.sleep(60)
    return {}
