"""ONNX Runtime as the backend uses it: sessions over the graphs of an engine, and values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt
import onnxruntime as ort

from edgellama.runtime.byte_sums import sums_saturate
from edgellama.runtime.contract import check_graph
from edgellama.runtime.heap import return_freed
from edgellama.runtime.manifest import EngineError, Manifest, TensorInfo

Session: TypeAlias = ort.InferenceSession
Binding: TypeAlias = ort.IOBinding
Value: TypeAlias = ort.OrtValue

PROVIDERS = {"cpu": "CPUExecutionProvider"}
MAX_THREADS = 1024  # far above any CPU; each thread is made at once, so more would hang the load
KV_DTYPES = ("float32", "int8")
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
# Workers spin inside a run only, so an idle server burns nothing, and briefly: long enough for the
# gap between two operators, short enough to leave the cores to the other threads of the process.
# (onnxruntime 1.23 has no spin_duration_us and ignores it.)
_SESSION_KEYS = {
    "session.intra_op.allow_spinning": "1",
    "session.intra_op.spin_duration_us": "50",
    "session.force_spinning_stop": "1",
}
# Without VNNI, products of unsigned and signed codes saturate at 16 bits; with this onnxruntime
# takes kernels for unsigned ones that do not. With AMX it would take them too, and they are slow.
_INTEGER_KEY = "session.x64quantprecision"
INTEGER_WEIGHTS = ("int8_sq", "int8_rows")
_LOG_ERRORS = 3


def value_of(array: npt.NDArray[Any]) -> Value:
    """Return an array as ONNX Runtime binds it: the same memory, kept as long as the value."""
    return ort.OrtValue.ortvalue_from_numpy(array)


def session_options(directory: Path, manifest: Manifest, threads: int | None) -> ort.SessionOptions:
    """Return the options of both sessions; raises EngineError for what cannot run here."""
    provider = PROVIDERS[manifest.profile.device.kind]
    if provider not in ort.get_available_providers():
        raise EngineError(
            f"engine {directory} needs {provider}; this onnxruntime {ort.__version__} has "
            f"{', '.join(ort.get_available_providers())}; install the matching extra"
        )
    if manifest.kv.dtype not in KV_DTYPES:
        raise EngineError(
            f"engine {directory}: kv.dtype is {manifest.kv.dtype!r}; this runtime supports "
            f"{', '.join(KV_DTYPES)}; rebuild the engine with another precision.kv"
        )
    count = threads if threads is not None else manifest.profile.device.threads
    if count is None:
        raise EngineError(f"engine {directory}: device.threads is missing; give the threads")
    if not 1 <= count <= MAX_THREADS:
        raise EngineError(f"threads is {count}; it must be in [1, {MAX_THREADS}]")
    precision = manifest.profile.precision
    of_bytes = {precision.weights, precision.batch_weights} & {*INTEGER_WEIGHTS}
    return _options(count, of_bytes=bool(of_bytes))


def open_model(model: bytes, threads: int) -> Session:
    """Open a graph of products of bytes as an engine's is opened: to measure what they can do."""
    options = _options(threads, of_bytes=True)
    return ort.InferenceSession(model, options, providers=[PROVIDERS["cpu"]])


def _options(threads: int, *, of_bytes: bool) -> ort.SessionOptions:
    """Return the options; `of_bytes` says that weights are multiplied as bytes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _LOG_ERRORS
    for key, value in _SESSION_KEYS.items():
        options.add_session_config_entry(key, value)
    if of_bytes and sums_saturate():
        options.add_session_config_entry(_INTEGER_KEY, "1")
    return options


def open_session(
    graph: Path, manifest: Manifest, options: ort.SessionOptions, *, is_mixed: bool
) -> Session:
    """Open one graph and hold it to the contract; raises EngineError.

    `is_mixed` says whether it takes rows and a chunk in one step.
    """
    provider = PROVIDERS[manifest.profile.device.kind]
    try:
        session = ort.InferenceSession(str(graph), options, providers=[provider])
    except Exception as error:  # onnxruntime's errors share no other base class
        raise EngineError(
            f"{graph}: onnxruntime {ort.__version__} cannot load it: {error}"
        ) from error
    return_freed()
    inputs, outputs = _tensors(session.get_inputs()), _tensors(session.get_outputs())
    check_graph(graph, manifest, inputs, outputs, is_mixed=is_mixed)
    return session


def _tensors(nodes: Sequence[Any]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(n.name, _DTYPES.get(n.type, n.type), tuple(n.shape)) for n in nodes)
