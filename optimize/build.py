"""All stages: checkpoint to verified engine directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgellama.export.adapter import open_adapter
from edgellama.export.checkpoint import Checkpoint, open_checkpoint
from edgellama.export.peak_memory import peak_rss_bytes
from edgellama.export.stage import require_disk_space, staged_directory
from edgellama.optimize.accuracy import AccuracyMeasurement, accuracy_fault, accuracy_samples
from edgellama.optimize.batch_accuracy import BatchMeasurement
from edgellama.optimize.build_report import BuildReport
from edgellama.optimize.bundle import require_output
from edgellama.optimize.compile_tensorrt import compile_bundle, compile_plan
from edgellama.optimize.describe import tool_versions
from edgellama.optimize.engine_folder import room_for
from edgellama.optimize.error import BuildError
from edgellama.optimize.fingerprint import fingerprint_of, unchanged
from edgellama.optimize.quantization import Given
from edgellama.optimize.source import CheckpointSource, PortableSource, Source
from edgellama.optimize.tensorrt.library import load_library
from edgellama.optimize.tensorrt.preflight import require_backend
from edgellama.optimize.verify import (
    Logits,
    verification_fault,
    verification_prompts,
    verify_engine,
)
from edgellama.optimize.write_graph import Job, WrittenGraph, write_graph
from edgellama.profiles.plan import require_fit
from edgellama.profiles.profile import Profile
from edgellama.runtime.manifest import Manifest, write_manifest
from edgellama.runtime.ort import NEVER, OrtBackend

Progress = Callable[[str, int, int], None]


def read_checkpoint(folder: Path, adapter: Path | None, given: Given) -> Checkpoint:
    """Open a checkpoint folder, with an adapter merged where there is one."""
    checkpoint = open_checkpoint(folder, exact=given.exact)
    return checkpoint if adapter is None else open_adapter(adapter, checkpoint)


def build_engine(
    profile: Profile,
    folder: Path,
    out: Path,
    *,
    adapter: Path | None = None,
    given: Given | None = None,
    progress: Progress | None = None,
    force: bool = False,
    bundle: bool = False,
) -> BuildReport:
    """Build the engine of a checkpoint folder for one profile into `out`; see `compile_engine`.

    `adapter` is a PEFT LoRA adapter to merge; `bundle` stops before the plan, `compile_bundle`.
    """
    require_output(profile, out, bundle=bundle)
    given = given or Given()
    source = CheckpointSource(read_checkpoint(folder, adapter, given))
    compile_source = compile_bundle if bundle else compile_engine
    return compile_source(profile, source, out, given=given, progress=progress, force=force)


def optimize_portable(
    profile: Profile,
    folder: Path,
    out: Path,
    *,
    given: Given | None = None,
    progress: Progress | None = None,
    force: bool = False,
    bundle: bool = False,
) -> BuildReport:
    """Build the engine of an exported portable model into `out`; see `compile_engine`.

    `bundle` stops before the plan, `compile_bundle`.
    """
    require_output(profile, out, bundle=bundle)
    source = PortableSource(folder)
    compile_source = compile_bundle if bundle else compile_engine
    return compile_source(profile, source, out, given=given, progress=progress, force=force)


def compile_engine(
    profile: Profile,
    source: Source,
    out: Path,
    *,
    given: Given | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> BuildReport:
    """Compile a source for one profile into the engine directory `out`.

    `progress` receives (stage, done, total). Scales that the profile needs and `given` has not are
    measured first and kept in `<out>.scales`. Everything that can be refused is refused before the
    trace: ProfileError, UnsupportedModelError, ExportError, BuildError, CalibrationError, OSError
    for a full disk. `out` appears whole, verified, or not at all; an engine with the same
    fingerprint is kept.
    """
    started = time.monotonic()
    given = given or Given()
    plan = require_fit(source.model, profile)
    versions = tool_versions()
    if profile.build.is_tensorrt:
        require_backend(profile)
        versions[profile.build.backend] = load_library(profile).__version__
    fingerprint = fingerprint_of(source, profile, given, versions)
    kept = None if force else unchanged(out, fingerprint)
    if kept is not None:
        seconds = time.monotonic() - started
        verified = dict(kept.verify)
        return BuildReport(out, seconds, peak_rss_bytes(), kept.bytes, verified, skipped=True)
    scales = out.with_name(f"{out.name}.scales")
    job = Job(source, profile, plan, fingerprint, given, scales, progress)
    with staged_directory(out) as staging:
        if profile.build.is_tensorrt:
            require_disk_space(out, 2 * room_for(plan), "the engine and its graph")
            manifest = compile_plan(staging, job)
        else:
            require_disk_space(out, room_for(plan), "the engine")
            manifest = _compile_graph(staging, job)
        seconds = time.monotonic() - started
        peak = peak_rss_bytes()
        measured = {"seconds": round(seconds, 3), "peak_rss_bytes": peak, **manifest.build}
        manifest = replace(manifest, build=measured)
        write_manifest(staging, manifest)
    verified = dict(manifest.verify)
    return BuildReport(out, seconds, peak, manifest.bytes, verified, skipped=False)


def _compile_graph(staging: Path, job: Job) -> Manifest:
    """Write the files of an engine of ONNX Runtime, and verify it."""
    written = write_graph(job, staging)
    return written.recorded(_verify(written))


def _verify(written: WrittenGraph) -> dict[str, Any]:
    job, manifest, codec = written.job, written.manifest, written.codec
    has_two = manifest.batch_graph is not None
    backend = OrtBackend.load(written.folder, manifest, batch_from=NEVER if has_two else None)
    try:
        prompts = verification_prompts(codec, manifest.kv.capacity)
        chunk = manifest.profile.limits.prefill_chunk
        samples = accuracy_samples(codec, manifest.kv.capacity)
        measurement = AccuracyMeasurement(backend, samples, chunk)
        second = BatchMeasurement(backend, samples, chunk) if has_two else None

        def on_sample(index: int, reference: Logits) -> None:
            measurement.add(index, reference)
            if second is not None:
                second.add(index, reference)

        def on_layer(done: int, total: int) -> None:
            if job.progress is not None:
                job.progress("verify", done, total)

        def reference(sequences: Sequence[Sequence[int]]) -> tuple[list[Logits], list[Logits]]:
            return job.source.reference(
                sequences,
                on_layer,
                written.quantization,
                measurement.sequences,
                on_sample,
            )

        result = verify_engine(backend, prompts, chunk, reference)
    finally:
        backend.close()
    fault = verification_fault(result, manifest.profile.precision)
    if fault is not None:
        raise BuildError(f"the engine failed verification: {fault}; nothing was written")
    accuracy = measurement.result()
    fault = accuracy_fault(accuracy, manifest.profile.accuracy)
    if fault is not None:
        raise BuildError(f"the engine lost too much: {fault}; nothing was written")
    found = {**result.as_dict(), "accuracy": accuracy.as_dict()}
    if second is None:
        return found
    fault = second.fault(accuracy)
    if fault is not None:
        raise BuildError(f"the engine failed verification: {fault}; nothing was written")
    return {**found, "batch": second.as_dict()}
