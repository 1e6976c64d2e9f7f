"""Finish a bundle into an engine on the device: the plan, and its verification. Device subset."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgellama.export.peak_memory import peak_rss_bytes
from edgellama.export.stage import require_disk_space, staged_directory
from edgellama.optimize.build_report import BuildReport
from edgellama.optimize.bundle import open_bundle
from edgellama.optimize.engine_folder import PLAN_NAME, TEXT_FILES, require_replaceable
from edgellama.optimize.error import BuildError
from edgellama.optimize.expectation import load_expectation
from edgellama.optimize.kernels.kernel_files import KERNELS_NAME
from edgellama.optimize.tensorrt.library import RTX, knobs_of
from edgellama.optimize.tensorrt.preflight import local_gpu, require_backend
from edgellama.optimize.tensorrt_builder import build_plan
from edgellama.optimize.verify import verification_fault
from edgellama.optimize.verify_expected import verify_expected
from edgellama.profiles.plan import require_fit
from edgellama.profiles.profile import Profile
from edgellama.runtime.load import load_backend
from edgellama.runtime.manifest import Manifest, record_files, write_manifest
from edgellama.runtime.trt import WEIGHT_FILES

Progress = Callable[[str, int, int], None]
_PLAN_TO_WEIGHTS = 1.15  # of a plan's bytes to those of its graph's weights, at most
_ROOM = 64 << 20  # for the texts and the file system


def with_backend(profile: Profile, backend: str | None) -> Profile:
    """Return the profile for another library; None keeps its own."""
    if backend is None:
        return profile
    return replace(profile, build=replace(profile.build, backend=backend))


def finish_bundle(
    folder: Path,
    out: Path,
    *,
    backend: str | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> BuildReport:
    """Build the engine of a bundle into `out`, for this machine's GPU or, with RTX, for any.

    `backend` replaces the bundle's. Raises EngineError for a bundle that was altered, BuildError
    and ProfileError for what this machine cannot build, all before any long work; `out` appears
    whole, and verified where there is a GPU to run it, or not at all.
    """
    started = time.monotonic()
    if out.resolve() == folder.resolve():
        raise BuildError(f"--out {out} is the bundle itself; choose another folder")
    if folder.resolve() in out.resolve().parents:
        raise BuildError(
            f"--out {out} lies in the bundle {folder}, which must stay as it is; choose another "
            "folder"
        )
    require_replaceable(out)
    manifest = open_bundle(folder)
    profile = with_backend(manifest.profile, backend)
    require_fit(manifest.model, profile)
    require_backend(profile)
    require_disk_space(out, int(manifest.bytes * _PLAN_TO_WEIGHTS) + _ROOM, "the engine")
    with staged_directory(out) as staging:
        copy_texts(folder, staging, manifest)
        built = replace(manifest, profile=profile)
        report = finish_into(staging, folder, built, progress=progress, cache=cache)
        seconds = time.monotonic() - started
        finished = _finished(report, seconds)
        write_manifest(staging, finished)
    verify = dict(finished.verify)
    return BuildReport(out, seconds, peak_rss_bytes(), finished.bytes, verify, skipped=False)


def copy_texts(folder: Path, staging: Path, manifest: Manifest) -> None:
    """Copy tokenizer, chat template and generation settings as the bundle has them."""
    for name in TEXT_FILES:
        if name in manifest.files:
            shutil.copyfile(folder / name, staging / name)


def _finished(manifest: Manifest, seconds: float) -> Manifest:
    """Return the manifest with the figures of the whole build."""
    measured = {
        **manifest.build,
        "seconds": round(seconds, 3),
        "peak_rss_bytes": peak_rss_bytes(),
    }
    return replace(manifest, build=measured)


def finish_into(
    staging: Path,
    folder: Path,
    manifest: Manifest,
    *,
    progress: Progress | None,
    cache: Path | None = None,
) -> Manifest:
    """Build the plan of a graph in `folder` into a staged engine; returns the engine's manifest.

    `manifest` describes the graph; `expected.npz` beside it says what the engine must answer.
    """
    graph = folder / manifest.graph
    plan = staging / PLAN_NAME

    def show(_phase: str, done: int, total: int) -> None:
        if progress is not None:  # TensorRT's phases take turns: one line for all of them
            progress("build plan", done, total)

    plugin = manifest.profile.build.target == "trt-plugin"
    report = build_plan(
        graph,
        plan,
        manifest.profile,
        manifest.inputs,
        kernels=folder / KERNELS_NAME if plugin else None,
        progress=show,
        cache=cache,
    )
    keep_weights(folder, staging, manifest.profile)
    engine = replace(
        manifest,
        graph=PLAN_NAME,
        files=record_files(staging),
        versions={**manifest.versions, report.backend: report.version},
        build={**manifest.build, "tensorrt": report.as_dict()},
    )
    return replace(engine, verify=_verify(staging, folder, engine, progress))


def keep_weights(folder: Path, staging: Path, profile: Profile) -> None:
    """Put the graph and its weights beside a stripped plan, which gets them when it is loaded."""
    if knobs_of(profile).strip_plan:
        for name in WEIGHT_FILES:
            shutil.copyfile(folder / name, staging / name)


def _verify(
    staging: Path, folder: Path, engine: Manifest, progress: Progress | None
) -> dict[str, Any]:
    """Return what the engine answered to the expectation, beside what its graph did.

    An engine for another GPU than this machine's cannot run here; then it says why.
    """
    reason = _cannot_run(engine)
    if reason is not None:
        return {**engine.verify, "plan": f"not run: {reason}"}
    if progress is not None:
        progress("verify", 0, 1)
    backend = load_backend(staging, engine)
    try:
        chunk = engine.profile.limits.prefill_chunk
        result = verify_expected(backend, load_expectation(folder), chunk)
    finally:
        backend.close()
    fault = verification_fault(result, engine.profile.precision)
    if fault is not None:
        raise BuildError(f"the engine failed verification: {fault}; nothing was written")
    if progress is not None:
        progress("verify", 1, 1)
    return {**engine.verify, "plan": result.as_dict()}


def _cannot_run(engine: Manifest) -> str | None:
    """Return why this machine cannot run an engine that was built for another one."""
    if engine.profile.build.backend != RTX:
        return None  # TensorRT builds where it runs
    gpu = engine.profile.device.gpu
    assert gpu is not None
    try:
        found = local_gpu()
    except BuildError as error:
        return str(error)
    if found.compute_capability != gpu.compute_capability:
        return f"this machine's GPU is {found.name}, the engine is for {gpu.name}"
    return None
