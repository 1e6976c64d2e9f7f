"""Source and profile to the files of a bundle: the graph for TensorRT, checked without a GPU."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgellama.export.file_names import GRAPH_NAME
from edgellama.optimize.accuracy import AccuracyMeasurement, accuracy_fault, accuracy_samples
from edgellama.optimize.bundle import SCALES_FILES
from edgellama.optimize.error import BuildError
from edgellama.optimize.expectation import Expectation, expected_sequences
from edgellama.optimize.kernels.model_kernels import write_model_kernels
from edgellama.optimize.target_session import TargetSession
from edgellama.optimize.verify import verification_fault
from edgellama.optimize.verify_expected import verify_expected
from edgellama.optimize.write_graph import Job, WrittenGraph, write_graph
from edgellama.profiles.plan import Plan
from edgellama.profiles.profile import Profile
from edgellama.runtime.manifest import Manifest

_MEMINFO = Path("/proc/meminfo")
# ONNX Runtime holds the weights twice while it packs them for its kernels, or widens float16.
_PROOF_COPIES = 3


def make_bundle(folder: Path, job: Job) -> Manifest:
    """Write graph, weights, texts, scales and expectation into a staged folder.

    Returns the manifest; its graph has been run on a CPU where that can be, and `verify` says so or
    why not.
    """
    reason = _cannot_prove(job.profile, job.plan)
    _require_accuracy_checked(job.profile, reason)
    # Kernels first: what cannot be compiled is known in seconds, and weights take minutes.
    kernels = write_model_kernels(folder, job.source.model, job.profile, progress=job.progress)
    written = replace(write_graph(job, folder), kernels=kernels)
    if "scales" in written.quantization.record:
        _copy_scales(job.given.scales or job.scales, folder)
    return written.recorded(_prove(written, reason))


def _copy_scales(scales: Path, folder: Path) -> None:
    """Keep the scales with the bundle: they say where every calibrated figure is from."""
    for name in SCALES_FILES:
        shutil.copyfile(scales / name, folder / name)


def _require_accuracy_checked(profile: Profile, reason: str | None) -> None:
    """Refuse a bound on the accuracy where the graph cannot be run."""
    bound = profile.accuracy.max_perplexity_increase
    if reason is not None and bound is not None:
        raise BuildError(
            f"accuracy.max_perplexity_increase is {bound:g}, which cannot be checked here: "
            f"{reason}; leave it out, and `edgellama evaluate` the engine on its device"
        )


def _prove(written: WrittenGraph, reason: str | None) -> dict[str, Any]:
    """Write the expectation, and run the graph against it on this machine's CPU.

    `reason` says why it cannot run here.
    """
    job, folder, manifest = written.job, written.folder, written.manifest
    source, profile, capacity = job.source, job.profile, manifest.kv.capacity
    codec, quantization = written.codec, written.quantization
    sequences = expected_sequences(codec, capacity)

    def on_layer(done: int, total: int) -> None:
        if job.progress is not None:
            job.progress("verify", done, total)

    if reason is not None:
        reference, stored = source.reference(sequences, on_layer, quantization)
        _expectation(sequences, reference, stored).save(folder)
        return {"graph": f"not run: {reason}"}
    slots = len(sequences)
    kv = replace(manifest.kv, slots=slots)
    session = TargetSession(folder / GRAPH_NAME, kv, manifest.model.vocab_size, prepack=True)
    try:
        chunk = profile.limits.prefill_chunk
        measurement = AccuracyMeasurement(session, accuracy_samples(codec, capacity), chunk)
        reference, stored = source.reference(
            sequences, on_layer, quantization, measurement.sequences, measurement.add
        )
        expectation = _expectation(sequences, reference, stored)
        expectation.save(folder)
        result = verify_expected(session, expectation, chunk)
    finally:
        session.close()
    fault = verification_fault(result, profile.precision)
    if fault is not None:
        raise BuildError(f"the graph failed verification: {fault}; nothing was written")
    accuracy = measurement.result()
    fault = accuracy_fault(accuracy, profile.accuracy)
    if fault is not None:
        raise BuildError(f"the engine lost too much: {fault}; nothing was written")
    on = "onnxruntime on a CPU: the graph that TensorRT is given"
    return {"graph": {"on": on, **result.as_dict()}, "accuracy": accuracy.as_dict()}


def _expectation(
    sequences: list[list[int]], reference: list[Any], stored: list[Any]
) -> Expectation:
    return Expectation(tuple(map(tuple, sequences)), tuple(reference), tuple(stored))


def _cannot_prove(profile: Profile, plan: Plan) -> str | None:
    """Return why the graph cannot run on this machine's CPU, or None where it can."""
    if profile.precision.compute == "bf16":
        return "ONNX Runtime has no bfloat16 operators on a CPU"
    needed = plan.weight_bytes * _PROOF_COPIES
    available = _available_memory()
    if needed > available:
        return f"it takes about {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are free"
    return None


def _available_memory() -> int:
    """Return the bytes that a process may still take."""
    for line in _MEMINFO.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise BuildError(f"{_MEMINFO} does not say how much memory is available")
