"""Check `bundle`: what a device needs to build an engine, made here or found intact."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgellama.benchmark.check import Job
from edgellama.benchmark.outcome import CheckSkipped
from edgellama.benchmark.subject import Subject
from edgellama.profiles.bounds import ProfileError


def check_bundle(job: Job) -> dict[str, Any]:
    """Open the given bundle, every byte compared with its digest; or make one of the checkpoint.

    A model that the profile cannot have, by a rule or by its memory, is skipped by name.
    """
    subject = job.engine
    if subject.bundle is not None:
        from edgellama.optimize.bundle import open_bundle

        began = time.perf_counter()
        manifest = open_bundle(subject.bundle)
        seconds = round(time.perf_counter() - began, 3)
        return {"given": str(subject.bundle), "bytes": manifest.bytes, "check_seconds": seconds}

    from edgellama.optimize.build import build_engine

    folder = checkpoint_folder(subject, job.work)
    try:
        report = build_engine(subject.profile, folder, subject.bundle_folder(job.work), bundle=True)
    except ProfileError as error:
        raise CheckSkipped(str(error)) from error
    return {"model": subject.model or f"random weights of size {subject.size}", **report.as_dict()}


def checkpoint_folder(subject: Subject, work: Path) -> Path:
    """Return the checkpoint of a subject; random weights are written once for all subjects."""
    if subject.model is not None:
        from edgellama.export.resolve import resolve_model

        return resolve_model(subject.model)
    assert subject.size is not None, "a given bundle has no checkpoint"
    out = work / "models" / subject.size
    if not out.is_dir():
        writer = [sys.executable, "-m", "edgellama.examples.random_llama"]
        subprocess.run([*writer, "--size", subject.size, "--out", str(out)], check=True)
    return out
