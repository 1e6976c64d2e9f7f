"""Source and profile to the target's graph on disk: what every build begins with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgellama.export.file_names import BATCH_GRAPH_NAME, GRAPH_NAME
from edgellama.export.to_onnx import save_beside, save_model
from edgellama.optimize.describe import describe
from edgellama.optimize.engine_files import write_text_files
from edgellama.optimize.kernels.kernel_files import CompiledKernel
from edgellama.optimize.pipeline import run_passes
from edgellama.optimize.quantization import Given, Quantization
from edgellama.optimize.source import Source
from edgellama.optimize.targets.table import TARGETS
from edgellama.optimize.weight_tensors import forget_scales
from edgellama.profiles.plan import Plan
from edgellama.profiles.profile import Profile
from edgellama.runtime.manifest import Manifest, record_files
from edgellama.runtime.text import TextCodec

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Job:
    """One build: of what, for what, with what. New scales are kept in the folder `scales`."""

    source: Source
    profile: Profile
    plan: Plan
    fingerprint: str
    given: Given
    scales: Path
    progress: Progress | None


@dataclass(frozen=True)
class WrittenGraph:
    """A graph with its weights and texts in a folder: the manifest lacks its files and figures."""

    job: Job
    folder: Path
    manifest: Manifest
    codec: TextCodec
    quantization: Quantization
    kernels: tuple[CompiledKernel, ...] = ()

    def recorded(self, verify: dict[str, Any]) -> Manifest:
        """Return the manifest with every file of the folder, as it is now, and the figures."""
        measured: dict[str, Any] = {
            "plan": self.job.plan.as_dict(),
            "quantization": self.quantization.as_dict(),
        }
        if self.kernels:
            measured["kernels"] = [asdict(kernel) for kernel in self.kernels]
        files = record_files(self.folder)
        return replace(self.manifest, files=files, build=measured, verify=verify)


def write_graph(job: Job, folder: Path) -> WrittenGraph:
    """Write the graph, its weights and the texts into a staged folder; measures scales first."""
    source, plan, progress = job.source, job.plan, job.progress
    write_text_files(source.folder, folder, source.adapter)
    codec = TextCodec.load(folder)  # a tokenizer that cannot be read fails before the trace
    quantization = source.quantization(codec, job.profile, job.given, job.scales, progress)
    if progress is not None:
        progress("trace", 0, 1)
    model = make_graph(source, job.profile, plan, quantization)
    save_model(model, folder / GRAPH_NAME, progress, "write weights")
    forget_scales()
    if job.profile.precision.batch_weights is not None:
        _write_batch_graph(job, folder, quantization)
    manifest = describe(source, job.profile, plan, model, job.fingerprint)
    return WrittenGraph(job, folder, manifest, codec, quantization)


def make_graph(
    source: Source, profile: Profile, plan: Plan, quantization: Quantization
) -> ir.Model:
    """Return the target's graph of a source; weights are read when it is written."""
    model = source.graph(quantization)
    target = TARGETS[profile.build.target]
    run_passes(model, target.steps(source.model, profile, plan.capacity))
    target.finish(model, plan.capacity)
    return model


def _write_batch_graph(job: Job, folder: Path, quantization: Quantization) -> None:
    """Write the graph of large steps; what it has in common with the other stays in its file."""
    precision = job.profile.precision.of_batches
    profile = replace(job.profile, precision=precision)
    model = make_graph(job.source, profile, job.plan, replace(quantization, precision=precision))
    save_beside(model, folder / BATCH_GRAPH_NAME, folder / GRAPH_NAME, job.progress)
    forget_scales()
