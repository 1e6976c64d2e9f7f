"""Ask for engines and plans in a process of its own, as NVIDIA's code may end it: a line a job.

python build_plans.py JOBS: a pickle of `Job`s. Each line is JSON; `begin` names the job that was
under way if there is no line after it.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellama.optimize.build import build_engine
from edgellama.optimize.error import BuildError
from edgellama.optimize.tensorrt_builder import build_plan
from edgellama.profiles.profile import Profile, ProfileError
from edgellama.runtime.manifest import Manifest


@dataclass(frozen=True)
class Job:
    """What is asked for: with a `manifest`, the plan of the graph at `source`, which no rule is
    asked about; without one, the engine of a checkpoint, which goes through all of them."""

    name: str
    source: Path
    profile: Profile
    out: Path
    manifest: Manifest | None = None


def do(job: Job) -> dict[str, Any]:
    """Return what came of it."""
    if job.manifest is None:
        try:
            build_engine(job.profile, job.source, job.out)
        except ProfileError as error:
            asked = "tensorrt_rtx" in sys.modules  # it is imported for the first build, not before
            return {"refused": str(error), "nvidia_was_asked": asked, "left": job.out.exists()}
        return {"built": True}
    try:
        report = build_plan(job.source, job.out, job.profile, job.manifest.inputs)
    except BuildError as error:
        return {"failed": str(error), "left": job.out.exists()}
    return {
        "bytes": job.out.stat().st_size,
        "version": report.version,
        "compute_capability": report.compute_capability,
        "optimization_profiles": sorted(report.optimization_profiles),
        "layers": dict(report.layers),
    }


def main(jobs: list[Job]) -> None:
    """Do the jobs in order."""
    for job in jobs:
        print(json.dumps({"begin": job.name}), flush=True)
        began = time.monotonic()
        result = {"name": job.name, **do(job), "seconds": round(time.monotonic() - began, 2)}
        job.out.unlink(missing_ok=True)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(pickle.loads(Path(sys.argv[1]).read_bytes()))
