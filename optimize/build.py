"""All stages: checkpoint to verified engine directory."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgellama.export.adapter import open_adapter
from edgellama.export.checkpoint import Checkpoint, open_checkpoint
from edgellama.export.stage import require_disk_space, staged_directory
from edgellama.export.to_onnx import GRAPH_NAME, peak_rss_bytes, save_model
from edgellama.optimize.accuracy import AccuracyMeasurement, accuracy_fault, accuracy_samples
from edgellama.optimize.describe import describe, tool_versions
from edgellama.optimize.engine_files import require_replaceable, write_text_files
from edgellama.optimize.pipeline import BuildError, run_passes
from edgellama.optimize.quantization import Given, Quantization
from edgellama.optimize.source import CheckpointSource, PortableSource, Source
from edgellama.optimize.targets.ort import finish_interface, ort_steps
from edgellama.optimize.verify import (
    Logits,
    verification_fault,
    verification_prompts,
    verify_engine,
)
from edgellama.optimize.weight_tensors import forget_scales
from edgellama.profiles.plan import Plan, require_fit
from edgellama.profiles.profile import Profile
from edgellama.runtime.manifest import (
    EngineError,
    Manifest,
    check_files,
    read_manifest,
    record_files,
    write_manifest,
)
from edgellama.runtime.ort import OrtBackend
from edgellama.runtime.text import TextCodec

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BuildReport:
    """What a build made or found unchanged; bytes, seconds, and this process's peak memory."""

    engine: Path
    seconds: float
    peak_rss_bytes: int
    bytes: int
    verify: dict[str, Any]
    skipped: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for `--json`."""
        return {**asdict(self), "engine": str(self.engine)}


def engine_fingerprint(source: Source, profile: Profile, given: Given) -> str:
    """Return a digest of all that decides an engine: weights, profile, given files, tools."""
    parts = [source.fingerprint(), profile.as_dict(), given.digest(), tool_versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _unchanged(out: Path, fingerprint: str) -> Manifest | None:
    """Return the manifest of an intact engine with this fingerprint."""
    try:
        manifest = read_manifest(out)
        if manifest.fingerprint != fingerprint:
            return None
        check_files(out, manifest)
    except EngineError:
        return None  # absent, damaged or older: it is built again
    return manifest


def _make_graph(
    source: Source, profile: Profile, plan: Plan, quantization: Quantization
) -> ir.Model:
    """Return the engine graph."""
    model = source.graph(quantization)
    run_passes(model, ort_steps(source.model, profile.precision, plan.capacity))
    finish_interface(model)
    return model


def _verify(
    staging: Path,
    manifest: Manifest,
    codec: TextCodec,
    source: Source,
    quantization: Quantization,
    progress: Progress | None,
) -> dict[str, Any]:
    backend = OrtBackend.load(staging, manifest)
    try:
        prompts = verification_prompts(codec, manifest.kv.capacity)
        chunk = manifest.profile.limits.prefill_chunk
        samples = accuracy_samples(codec, manifest.kv.capacity)
        measurement = AccuracyMeasurement(backend, samples, chunk)

        def on_layer(done: int, total: int) -> None:
            if progress is not None:
                progress("verify", done, total)

        def reference(sequences: Sequence[Sequence[int]]) -> tuple[list[Logits], list[Logits]]:
            return source.reference(
                sequences, on_layer, quantization, measurement.sequences, measurement.add
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
    return {**result.as_dict(), "accuracy": accuracy.as_dict()}


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
) -> BuildReport:
    """Build the engine of a checkpoint folder for one profile into `out`; see `compile_engine`.

    `adapter` is a PEFT LoRA adapter to merge.
    """
    require_replaceable(out)
    given = given or Given()
    source = CheckpointSource(read_checkpoint(folder, adapter, given))
    return compile_engine(profile, source, out, given=given, progress=progress, force=force)


def optimize_portable(
    profile: Profile,
    folder: Path,
    out: Path,
    *,
    given: Given | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> BuildReport:
    """Build the engine of an exported portable model into `out`; see `compile_engine`."""
    require_replaceable(out)
    source = PortableSource(folder)
    return compile_engine(profile, source, out, given=given, progress=progress, force=force)


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
    fingerprint = engine_fingerprint(source, profile, given)
    kept = None if force else _unchanged(out, fingerprint)
    if kept is not None:
        seconds = time.monotonic() - started
        verified = dict(kept.verify)
        return BuildReport(out, seconds, peak_rss_bytes(), kept.bytes, verified, skipped=True)
    require_disk_space(out, int(plan.weight_bytes * 1.1) + (64 << 20), "the engine")
    with staged_directory(out) as staging:
        write_text_files(source.folder, staging, source.adapter)
        codec = TextCodec.load(staging)  # a tokenizer that cannot be read fails before the trace
        scales = out.with_name(f"{out.name}.scales")
        quantization = source.quantization(codec, profile, given, scales, progress)
        if progress is not None:
            progress("trace", 0, 1)
        model = _make_graph(source, profile, plan, quantization)
        save_model(model, staging / GRAPH_NAME, progress, "write weights")
        forget_scales()
        manifest = describe(source, profile, plan, model, fingerprint)
        manifest = replace(manifest, files=record_files(staging))
        verified = _verify(staging, manifest, codec, source, quantization, progress)
        seconds = time.monotonic() - started
        peak = peak_rss_bytes()
        measured = {
            "seconds": round(seconds, 3),
            "peak_rss_bytes": peak,
            "plan": plan.as_dict(),
            "quantization": quantization.as_dict(),
        }
        manifest = replace(manifest, build=measured, verify=verified)
        write_manifest(staging, manifest)
    return BuildReport(out, seconds, peak, manifest.bytes, verified, skipped=False)
