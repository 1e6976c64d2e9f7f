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

from edgellama.export.reference import Variant, as_stored
from edgellama.export.stage import require_disk_space, staged_directory
from edgellama.export.to_onnx import GRAPH_NAME, peak_rss_bytes, save_model
from edgellama.optimize.calibrated_cache import quantize_staged_cache
from edgellama.optimize.describe import describe, tool_versions
from edgellama.optimize.engine_files import require_replaceable, write_text_files
from edgellama.optimize.pipeline import BuildError, run_passes
from edgellama.optimize.quantized_graph import quantize_portable
from edgellama.optimize.source import CheckpointSource, PortableSource, Source
from edgellama.optimize.stored_weights import StoredWeights
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


def engine_fingerprint(source: Source, profile: Profile) -> str:
    """Return a digest of all that decides an engine's content: weights, profile, tools."""
    parts = [source.fingerprint(), profile.as_dict(), tool_versions()]
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


def _make_graph(source: Source, profile: Profile, plan: Plan) -> ir.Model:
    """Return the engine graph with a float32 cache."""
    model = source.graph()
    precision = replace(profile.precision, kv="fp32")
    quantize_portable(model, source.model, precision)
    run_passes(model, ort_steps(source.model, precision, plan.capacity))
    finish_interface(model)
    return model


def _verify(
    staging: Path,
    manifest: Manifest,
    codec: TextCodec,
    source: Source,
    progress: Progress | None,
) -> dict[str, Any]:
    backend = OrtBackend.load(staging, manifest)
    try:
        prompts = verification_prompts(codec, manifest.kv.capacity)

        def on_layer(done: int, total: int) -> None:
            if progress is not None:
                progress("verify", done, total)

        variants: list[Variant] = [as_stored]
        stored = StoredWeights(manifest.model, manifest.profile.precision)
        if not stored.is_exact:
            variants.append(stored)

        def reference(sequences: Sequence[Sequence[int]]) -> tuple[list[Logits], list[Logits]]:
            original, *rounded = source.reference(sequences, on_layer, variants)
            return original, rounded[0] if rounded else original

        chunk = manifest.profile.limits.prefill_chunk
        result = verify_engine(backend, prompts, chunk, reference)
    finally:
        backend.close()
    fault = verification_fault(result, manifest.profile.precision)
    if fault is not None:
        raise BuildError(f"the engine failed verification: {fault}; nothing was written")
    return result.as_dict()


def build_engine(
    profile: Profile,
    folder: Path,
    out: Path,
    *,
    progress: Progress | None = None,
    force: bool = False,
) -> BuildReport:
    """Build the engine of a checkpoint folder for one profile into `out`; see `compile_engine`."""
    require_replaceable(out)
    return compile_engine(profile, CheckpointSource(folder), out, progress=progress, force=force)


def optimize_portable(
    profile: Profile,
    folder: Path,
    out: Path,
    *,
    progress: Progress | None = None,
    force: bool = False,
) -> BuildReport:
    """Build the engine of an exported portable model into `out`; see `compile_engine`."""
    require_replaceable(out)
    return compile_engine(profile, PortableSource(folder), out, progress=progress, force=force)


def compile_engine(
    profile: Profile,
    source: Source,
    out: Path,
    *,
    progress: Progress | None = None,
    force: bool = False,
) -> BuildReport:
    """Compile a source for one profile into the engine directory `out`.

    `progress` receives (stage, done, total). Everything that can be refused is refused before the
    trace: ProfileError, UnsupportedModelError, ExportError, BuildError, OSError for a full disk.
    `out` appears whole, verified, or not at all; an engine with the same fingerprint is kept.
    """
    started = time.monotonic()
    plan = require_fit(source.model, profile)
    fingerprint = engine_fingerprint(source, profile)
    kept = None if force else _unchanged(out, fingerprint)
    if kept is not None:
        seconds = time.monotonic() - started
        verified = dict(kept.verify)
        return BuildReport(out, seconds, peak_rss_bytes(), kept.bytes, verified, skipped=True)
    require_disk_space(out, int(plan.weight_bytes * 1.1) + (64 << 20), "the engine")
    with staged_directory(out) as staging:
        write_text_files(source.folder, staging)
        codec = TextCodec.load(staging)  # a tokenizer that cannot be read fails before the trace
        if progress is not None:
            progress("trace", 0, 1)
        model = _make_graph(source, profile, plan)
        save_model(model, staging / GRAPH_NAME, progress, "write weights")
        forget_scales()
        manifest = describe(source, profile, plan, model, fingerprint)
        if profile.precision.kv == "int8":
            model = quantize_staged_cache(staging, manifest, codec, progress)
            manifest = describe(source, profile, plan, model, fingerprint)
        manifest = replace(manifest, files=record_files(staging))
        verified = _verify(staging, manifest, codec, source, progress)
        seconds = time.monotonic() - started
        peak = peak_rss_bytes()
        measured = {"seconds": round(seconds, 3), "peak_rss_bytes": peak, "plan": plan.as_dict()}
        manifest = replace(manifest, build=measured, verify=verified)
        write_manifest(staging, manifest)
    return BuildReport(out, seconds, peak, manifest.bytes, verified, skipped=False)
