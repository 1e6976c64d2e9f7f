"""The manifest of an engine graph, before its files are measured and the engine is verified."""

from __future__ import annotations

import platform
from importlib.metadata import version

import onnx_ir as ir

from edgellama.export.file_names import BATCH_GRAPH_NAME, GRAPH_NAME
from edgellama.optimize.passes.match import dim
from edgellama.optimize.source import Source
from edgellama.profiles.plan import Plan
from edgellama.profiles.profile import Profile
from edgellama.runtime.manifest import KvLayout, Manifest, TensorInfo

TOOLS = ("edgellama", "torch", "transformers", "onnx-ir", "onnxscript", "onnxruntime", "numpy")
_NUMPY_NAMES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.INT64: "int64",
    ir.DataType.INT32: "int32",
    ir.DataType.INT8: "int8",
    ir.DataType.FLOAT8E4M3FN: "float8_e4m3fn",
}


def tool_versions() -> dict[str, str]:
    """Return the versions of everything that shapes an engine."""
    return {"python": platform.python_version(), **{name: version(name) for name in TOOLS}}


def _tensors(values: list[ir.Value]) -> tuple[TensorInfo, ...]:
    infos = []
    for value in values:
        assert value.shape is not None and value.dtype is not None
        shape = tuple(axis if isinstance(axis, int) else str(axis.value) for axis in value.shape)
        infos.append(TensorInfo(value.name or "", _NUMPY_NAMES[value.dtype], shape))
    return tuple(infos)


def describe(
    source: Source, profile: Profile, plan: Plan, model: ir.Model, fingerprint: str
) -> Manifest:
    """Return the manifest of a graph; `files`, `build` and `verify` are still empty."""
    past = next(v for v in model.graph.inputs if (v.name or "").startswith("past_key_values."))
    assert past.dtype is not None
    return Manifest(
        profile=profile,
        model=source.model,
        source=source.name,
        fingerprint=fingerprint,
        graph=GRAPH_NAME,
        batch_graph=BATCH_GRAPH_NAME if profile.precision.batch_weights else None,
        inputs=_tensors(list(model.graph.inputs)),
        outputs=_tensors(list(model.graph.outputs)),
        kv=KvLayout(
            layers=source.model.num_layers,
            kv_heads=source.model.num_kv_heads,
            head_dim=dim(past, 3),
            slots=plan.slots,
            capacity=plan.capacity,
            dtype=_NUMPY_NAMES[past.dtype],
        ),
        files={},
        versions=tool_versions(),
        build={},
        verify={},
    )
