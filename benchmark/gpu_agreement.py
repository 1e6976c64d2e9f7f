"""Check `agreement`: two targets of one model say the same, step by step."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from edgellama.benchmark.check import Job
from edgellama.benchmark.gpu_numerics import Load, bar_of
from edgellama.benchmark.outcome import CheckFailed
from edgellama.benchmark.replay import largest_difference, replay
from edgellama.benchmark.subject import slug
from edgellama.optimize.expectation import Expectation, load_expectation
from edgellama.runtime.load import load_backend
from edgellama.runtime.manifest import read_manifest


def check_agreement(job: Job) -> dict[str, Any]:
    """Compare the engine of a subject with its twin's."""
    subject = job.engine
    assert subject.twin is not None, "a need of the check"
    expectation = load_expectation(subject.bundle_folder(job.work))
    twin = job.work / slug(subject.twin) / "engine"
    return compare_engines(subject.engine_folder(job.work), twin, expectation)


def compare_engines(
    one: Path, other: Path, expectation: Expectation, load: Load = load_backend
) -> dict[str, Any]:
    """Run the same steps through both; raises CheckFailed where they part.

    Past and present of both are one memory. Target trt-native updates it by a layer that is made
    for that; trt-plain scatters into it, which is right only if nothing reads the old cache behind
    the write. Chunks behind chunks, ragged rows and a reused slot would show it if it were not so.
    """
    first, second = read_manifest(one), read_manifest(other)
    with closing(load(one, first)) as backend:
        found = replay(backend, expectation.sequences, first.profile.limits.prefill_chunk)
    with closing(load(other, second)) as backend:
        theirs = replay(backend, expectation.sequences, second.profile.limits.prefill_chunk)
    far = largest_difference(theirs, found)
    targets = [first.profile.build.target, second.profile.build.target]
    figures = {"targets": targets, "largest_difference": far, "parts": sorted(found)}
    bar = bar_of(first.profile.precision)
    if bar is not None and not far <= bar:  # NaN is no agreement
        raise CheckFailed(
            f"targets {' and '.join(targets)} differ by {far:.2e} of the largest logit; the limit "
            f"for {first.profile.precision.compute} is {bar:.0e}",
            figures,
        )
    return figures
