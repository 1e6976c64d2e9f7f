"""A source to a plan, or to the bundle that a device makes one of."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from edgellama.export.peak_memory import peak_rss_bytes
from edgellama.export.stage import require_disk_space, staged_directory
from edgellama.optimize.build_report import BuildReport
from edgellama.optimize.bundle import BUNDLE, require_bundled, seal_bundle
from edgellama.optimize.describe import tool_versions
from edgellama.optimize.engine_folder import room_for
from edgellama.optimize.fingerprint import fingerprint_of, unchanged
from edgellama.optimize.finish import copy_texts, finish_into
from edgellama.optimize.make_bundle import make_bundle
from edgellama.optimize.quantization import Given
from edgellama.optimize.source import Source
from edgellama.optimize.write_graph import Job
from edgellama.profiles.plan import require_fit
from edgellama.profiles.profile import Profile
from edgellama.runtime.manifest import Manifest

Progress = Callable[[str, int, int], None]


def compile_plan(staging: Path, job: Job) -> Manifest:
    """Write the files of an engine of TensorRT: a bundle that is finished at once."""
    bundle = staging / "bundle"
    bundle.mkdir()
    manifest = make_bundle(bundle, job)
    copy_texts(bundle, staging, manifest)
    manifest = finish_into(staging, bundle, manifest, progress=job.progress)
    shutil.rmtree(bundle)
    return manifest


def compile_bundle(
    profile: Profile,
    source: Source,
    out: Path,
    *,
    given: Given | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> BuildReport:
    """Compile a source for one profile into the bundle `out`, which `finish_bundle` takes.

    As `compile_engine`, but for the plan: neither TensorRT nor a GPU is needed.
    """
    started = time.monotonic()
    require_bundled(profile)
    given = given or Given()
    plan = require_fit(source.model, profile)
    fingerprint = fingerprint_of(source, profile, given, tool_versions())
    kept = None if force else unchanged(out, fingerprint, BUNDLE)
    if kept is not None:
        seconds = time.monotonic() - started
        return BuildReport(out, seconds, peak_rss_bytes(), kept.bytes, dict(kept.verify), True)
    require_disk_space(out, room_for(plan), "the bundle")
    scales = out.with_name(f"{out.name}.scales")
    job = Job(source, profile, plan, fingerprint, given, scales, progress)
    with staged_directory(out) as staging:
        manifest = make_bundle(staging, job)
        seconds = time.monotonic() - started
        seal_bundle(staging, manifest)
    verified = dict(manifest.verify)
    return BuildReport(out, seconds, peak_rss_bytes(), manifest.bytes, verified, skipped=False)
