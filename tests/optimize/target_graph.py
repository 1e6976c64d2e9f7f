"""The graph of a target, written as a build writes it, and a profile to write it for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from edgellama.calibration.scales import Scales
from edgellama.export.checkpoint import open_checkpoint
from edgellama.export.file_names import GRAPH_NAME
from edgellama.export.to_onnx import portable_model, save_model
from edgellama.optimize.describe import describe
from edgellama.optimize.quantization import Quantization
from edgellama.optimize.source import DTYPE_OF, CheckpointSource
from edgellama.optimize.weight_tensors import forget_scales
from edgellama.optimize.write_graph import make_graph
from edgellama.profiles.kernels import Kernels
from edgellama.profiles.plan import make_plan
from edgellama.profiles.profile import FLOAT_PRECISIONS, Precision, Profile, load_profile
from edgellama.runtime.manifest import Manifest


class TracedOnce(CheckpointSource):
    """A checkpoint whose trace, which takes seconds, serves every graph of a float type."""

    def __init__(self, folder: Path) -> None:
        self._opened = open_checkpoint(folder)
        super().__init__(self._opened)
        self._traces: dict[str, ir.Model] = {}

    def graph(self, quantization: Quantization) -> ir.Model:
        """Quantise a copy of the trace."""
        compute = quantization.precision.compute
        if compute not in self._traces:
            self._traces[compute] = portable_model(self._opened, DTYPE_OF[compute])
        graph = self._traces[compute].clone()
        quantization.apply(graph, self.model)
        return graph


def precision_of(
    weights: str, compute: str = "fp16", embedding: str | None = None, block_size: int = 32
) -> Precision:
    """Return a precision whose cache and float tables have the compute type, as rules demand."""
    compute = weights if weights in FLOAT_PRECISIONS else compute
    return Precision(weights, embedding or compute, compute, block_size, compute)


def small_profile(target: str, precision: Precision, base: str = "l4-1b", **limits: int) -> Profile:
    """Return a shipped profile with another graph and other limits.

    It is for TensorRT for RTX where that has what the target needs.
    """
    shipped = load_profile(base)
    plugin = target == "trt-plugin"
    return replace(
        shipped,
        build=replace(
            shipped.build, target=target, backend="tensorrt" if plugin else "tensorrt-rtx"
        ),
        kernels=Kernels("cubin") if plugin else None,
        precision=precision,
        limits=replace(shipped.limits, **limits),
    )


def write_graph(
    source: CheckpointSource, folder: Path, profile: Profile, scales: Scales | None = None
) -> Manifest:
    """Write the graph of a profile as `model.onnx`; returns its manifest. No rule is asked."""
    plan = make_plan(source.model, profile)
    model = make_graph(source, profile, plan, Quantization(profile.precision, scales))
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, folder / GRAPH_NAME, None, "")
    forget_scales()
    return describe(source, profile, plan, model, "")
