"""Run a portable graph as it is: what engines are compared with, and what `evaluate` scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from edgellama.optimize.kernels.add_functions import add_functions
from edgellama.optimize.pipeline import BuildError
from edgellama.profiles.model import ModelConfig

_LOG_ERRORS = 3
# Types of a cache, numpy's where it has one and else ONNX's number (TensorProto.DataType).
_CACHE_TYPES: Mapping[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": 16,
    "tensor(float8e4m3fn)": 17,
    "tensor(int8)": np.int8,
}
_SESSION_KEYS: dict[str, str] = {
    # A dequantised linear becomes MatMulNBits, whose default rounds the activations to int8, which
    # the graph does not say; 1 is float32.
    "session.qdq_matmulnbits_accuracy_level": "1",
}
# onnxruntime fuses a linear of codes into an integer product: one of fp8 it refuses then, and sums
# of int8 saturate at 16 bits on processors without VNNI.
_UNFUSED = {"session.disable_quant_qdq": "1"}
# Where the weights of a graph lie that is handed over in memory.
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
# One cache after another, `LAYER.key` before `LAYER.value`; values of onnxruntime.
Past = list[Any]


def _load(path: Path) -> ir.Model:
    try:
        return ir.load(path)
    except Exception as error:  # protobuf's class, which onnx_ir does not name
        raise BuildError(f"{path} is not an ONNX model ({error}); export again") from error


def _session_keys(model: ir.Model) -> Mapping[str, str]:
    """Return the settings with which onnxruntime computes a graph as it says."""
    weights = model.graph.initializers.values()
    fp8 = any(value.dtype == ir.DataType.FLOAT8E4M3FN for value in weights)
    return _SESSION_KEYS | _UNFUSED if fp8 or _rounds_inputs(model) else _SESSION_KEYS


def _rounds_inputs(model: ir.Model) -> bool:
    """Return whether a linear has its inputs rounded to codes."""
    for node in model.graph:
        if node.op_type == "MatMul" and node.inputs[0] is not None:
            back = node.inputs[0].producer()
            if back is not None and back.op_type == "DequantizeLinear":
                return True
    return False


def open_session(
    path: Path, *, threads: int | None = None, prepack: bool = False
) -> ort.InferenceSession:
    """Open a graph so that it is computed as it says; see PortableSession.

    Operators of the project's own run as their bodies of standard ones.
    """
    model = _load(path)
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS
    if threads is not None:
        options.intra_op_num_threads = threads
    for key, value in _session_keys(model).items():
        options.add_session_config_entry(key, value)
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    graph: str | bytes = str(path)
    if add_functions(model):
        graph = ir.to_proto(model).SerializeToString()
        options.add_session_config_entry(_EXTERNAL_FOLDER, str(path.parent))
    try:
        return ort.InferenceSession(
            graph,
            options,
            providers=["CPUExecutionProvider"],
            # Bodies unpack weights, which folding would keep in float32 besides.
            disabled_optimizers=["ConstantFolding"] if isinstance(graph, bytes) else None,
        )
    except Exception as error:  # onnxruntime's errors share no other base class
        raise BuildError(
            f"{path}: onnxruntime {ort.__version__} cannot run it on a CPU: {error}"
        ) from error


class PortableSession:
    """A portable graph on ONNX Runtime's CPU, computed as the graph says.

    `threads` None takes all cores. `prepack` copies every weight into the layout of the kernels: it
    pays for long texts. Raises BuildError when onnxruntime cannot run the graph.
    """

    def __init__(
        self, path: Path, model: ModelConfig, *, threads: int | None = None, prepack: bool = False
    ) -> None:
        self._session = open_session(path, threads=threads, prepack=prepack)
        self._model = model
        self._names = [
            f"{layer}.{kind}" for layer in range(model.num_layers) for kind in ("key", "value")
        ]
        types = {node.name: node.type for node in self._session.get_inputs()}
        self._cache_types = [types[f"past_key_values.{name}"] for name in self._names]

    @property
    def metadata(self) -> dict[str, str]:
        """What the exporter wrote into the graph."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def cache_type(self) -> str:
        """The type of the cache as ONNX names it, for example `float16`."""
        name = self._cache_types[0].removeprefix("tensor(").removesuffix(")")
        return "float32" if name == "float" else name

    def empty_past(self, batch: int = 1) -> Past:
        """Return the caches of `batch` sequences that have no token yet."""
        shape = [batch, self._model.num_kv_heads, 0, self._model.head_dim]
        make = ort.OrtValue.ortvalue_from_shape_and_type
        return [make(shape, _CACHE_TYPES[kind], "cpu") for kind in self._cache_types]

    def run(
        self, ids: npt.NDArray[np.int64], start: int, past: Past
    ) -> tuple[npt.NDArray[np.float32], Past]:
        """Feed ids `[batch, n]` behind `start` tokens; logits `[batch, n, vocab]` and the cache."""
        batch, count = ids.shape
        positions = np.broadcast_to(np.arange(start, start + count, dtype=np.int64), (batch, count))
        make = ort.OrtValue.ortvalue_from_numpy
        feed = {
            "input_ids": make(np.ascontiguousarray(ids)),
            "position_ids": make(np.ascontiguousarray(positions)),
        }
        feed |= {f"past_key_values.{n}": value for n, value in zip(self._names, past, strict=True)}
        outputs = ["logits", *(f"present.{name}" for name in self._names)]
        logits, *present = self._session.run_with_ort_values(outputs, feed)
        return np.asarray(logits.numpy(), np.float32), present

    def logits(
        self, tokens: Sequence[int], chunks: Sequence[int] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return logits [len(tokens), vocab]; `chunks` splits the run, carrying the past along."""
        past = self.empty_past()
        rows, start = [], 0
        for count in chunks or [len(tokens)]:
            ids = np.array([tokens[start : start + count]], np.int64)
            logits, past = self.run(ids, start, past)
            rows.append(logits[0])
            start += count
        return np.concatenate(rows)
