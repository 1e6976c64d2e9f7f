"""Checkpoint in, portable ONNX out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from transformers import AutoConfig

from edgellama.export.checkpoint import Checkpoint, open_checkpoint
from edgellama.export.error import ExportError
from edgellama.export.file_names import DATA_NAME, GRAPH_NAME, SIDE_FILES
from edgellama.export.generation import GENERATION_CONFIG, tokenizer_folder
from edgellama.export.peak_memory import peak_rss_bytes
from edgellama.export.resolve import source_name
from edgellama.export.stage import foreign_name, require_disk_space, staged_directory
from edgellama.export.trace import trace_llama
from edgellama.export.weights import IR_DTYPES, attach_weights, fold_linears
from edgellama.profiles.model import ModelConfig, read_model_config

CONFIG_KEY = "edgellama.config"
SOURCE_KEY = "edgellama.source"
FINGERPRINT_KEY = "edgellama.fingerprint"
GRAPH_ONLY_KEY = "edgellama.graph_only"  # "true" where the weights were never written
Progress = Callable[[str, int, int], None]
Transform = Callable[[ir.Model], None]
_ALIGNMENT = 4096  # bytes; a weight can then be mapped on its own
_INLINE_BYTES = 256  # smaller weights stay in the graph
_GRAPH_BYTES = 64 << 20  # room for the graph, the tokenizer and the file system itself


@dataclass(frozen=True)
class ExportReport:
    """What an export made: folder, bytes written, seconds, and this process's peak memory."""

    model: Path
    dtype: str
    bytes: int
    seconds: float
    peak_rss_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for `--json`."""
        return {**asdict(self), "model": str(self.model)}


def _traced(folder: Path, model: ModelConfig, dtype: str) -> ir.Model:
    """Return the graph of a checkpoint folder's configuration, its weights without data."""
    config = AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = model.tie_word_embeddings  # an adapter may have untied it
    graph = trace_llama(config, dtype)
    graph.producer_name = "edgellama"
    graph.metadata_props[SOURCE_KEY] = source_name(folder)
    graph.metadata_props[CONFIG_KEY] = json.dumps(asdict(model))
    return graph


def portable_model(checkpoint: Checkpoint, dtype: str) -> ir.Model:
    """Return the portable graph of a checkpoint with lazily read weights."""
    model = _traced(checkpoint.folder, checkpoint.model, dtype)
    attach_weights(model, checkpoint, dtype)
    model.metadata_props[SOURCE_KEY] = checkpoint.name
    model.metadata_props[FINGERPRINT_KEY] = checkpoint.fingerprint()
    return model


def portable_graph(folder: Path, dtype: str) -> ir.Model:
    """Return the portable graph of a folder's `config.json` alone, marked as without weights.

    Its weights refer to a file that is not written, `model.onnx.data`, laid out as an export lays
    it out: names, types and shapes are there for tools that read graphs, and no runtime loads it.
    """
    model = _traced(folder, read_model_config(folder), dtype)
    dtype_of = IR_DTYPES[dtype][1]
    offset = 0
    for name in fold_linears(model):
        value = model.graph.initializers[name]
        assert value.shape is not None, name  # a parameter's shape is known
        shape = ir.Shape(value.shape.numpy())
        length = math.prod(shape.numpy()) * dtype_of.bitwidth // 8
        value.const_value = ir.ExternalTensor(
            DATA_NAME, offset, length, dtype_of, shape=shape, name=name, base_dir=folder
        )
        offset += _aligned(length)
    model.metadata_props[GRAPH_ONLY_KEY] = "true"
    return model


def _aligned(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _data_bytes(model: ir.Model) -> int:
    """Return at most how many bytes of weights are to be written."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    written = [t for t in tensors if t is not None and not isinstance(t, ir.ExternalTensor)]
    return sum(_aligned(tensor.nbytes) for tensor in written)


def _counted(
    progress: Progress | None, what: str
) -> Callable[[ir.TensorProtocol, ir.external_data.CallbackInfo], None]:
    """Return what reports each tensor that is being written."""

    def step(_tensor: ir.TensorProtocol, info: ir.external_data.CallbackInfo) -> None:
        if progress is not None:
            progress(what, info.index + 1, info.total)

    return step


def save_model(model: ir.Model, path: Path, progress: Progress | None, what: str) -> None:
    """Write a graph and its external data, one part of a tensor in memory at a time.

    Raises what a weight's reader raises (ExportError for NaN, for example), not its wrappings.
    """

    step = _counted(progress, what)
    try:
        ir.save(model, path, external_data=f"{path.name}.data", callback=step, alignment=_ALIGNMENT)
    except ir.serde.SerdeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise cause from None


def save_beside(model: ir.Model, path: Path, other: Path, progress: Progress | None) -> None:
    """Write a graph as `save_model` does, but refer to what a graph of the same folder has already.

    Weights of one name, type and shape are the same: `other` was made of the same checkpoint.
    """
    assert path.parent == other.parent, "data is referred to by its name"
    there = ir.load(other).graph.initializers
    kept = {}
    for name, value in model.graph.initializers.items():
        found = there[name].const_value if name in there else None
        mine = value.const_value
        if not isinstance(found, ir.ExternalTensor) or mine is None:
            continue
        if (found.dtype, found.shape) == (mine.dtype, mine.shape):
            kept[name] = found
            value.const_value = ir.tensor([0], name=name)  # too small to be written apart
    ir.external_data.unload_from_model(
        model,
        path.parent,
        f"{path.name}.data",
        size_threshold_bytes=_INLINE_BYTES,
        callback=_counted(progress, "write batch weights"),
        alignment=_ALIGNMENT,
    )
    for name, tensor in kept.items():
        model.graph.initializers[name].const_value = tensor
    ir.save(model, path)


def _require_replaceable(out: Path) -> None:
    """Refuse to replace a folder that holds anything but an earlier export."""
    name = foreign_name(out, {GRAPH_NAME, DATA_NAME, *SIDE_FILES})
    if name is not None:
        raise ExportError(
            f"{out} holds {name}, which no export writes and which would be lost; choose another "
            "--out or remove it"
        )


def _copy_side_files(folder: Path, adapter: Path | None, staging: Path) -> None:
    """Copy tokenizer and settings; an adapter's own tokenizer goes before the base model's."""
    texts = tokenizer_folder(folder, adapter)
    for name in SIDE_FILES:
        source = folder / name if name == "config.json" else texts / name
        if name == GENERATION_CONFIG and not source.is_file():
            source = folder / name
        if source.is_file():
            (staging / name).write_bytes(source.read_bytes())


def export_portable(
    folder: Path,
    out: Path,
    *,
    dtype: str = "float32",
    progress: Progress | None = None,
    graph_only: bool = False,
    checkpoint: Checkpoint | None = None,
    transform: Transform | None = None,
) -> ExportReport:
    """Export a checkpoint folder to `out/model.onnx` with external data and the tokenizer's files.

    `progress` receives (stage, done, total). `checkpoint` is the folder's, opened already, with an
    adapter perhaps. `transform` changes the graph before any weight is
    read, to quantise it for example. `graph_only` needs `config.json` alone and writes the graph
    without weights, see `portable_graph`.
    Raises ExportError or UnsupportedModelError before any long work, OSError when the disk is too
    small; `out` is replaced only when all is written.
    """
    started = time.monotonic()
    if dtype not in IR_DTYPES:
        raise ExportError(f"dtype is {dtype!r}; supported: {', '.join(IR_DTYPES)}")
    if graph_only and transform is not None:
        raise ExportError("graph_only is set, so there are no weights to quantise; leave one out")
    _require_replaceable(out)
    if checkpoint is None and not graph_only:
        checkpoint = open_checkpoint(folder)
    if progress is not None:
        progress("trace", 0, 1)
    model = portable_model(checkpoint, dtype) if checkpoint else portable_graph(folder, dtype)
    if transform is not None:
        transform(model)
    require_disk_space(out, _data_bytes(model) + _GRAPH_BYTES, "the portable model")
    with staged_directory(out) as staging:
        if graph_only:
            ir.save(model, staging / GRAPH_NAME)
        else:
            save_model(model, staging / GRAPH_NAME, progress, "write weights")
        _copy_side_files(folder, checkpoint.adapter if checkpoint else None, staging)
        size = sum(path.stat().st_size for path in staging.iterdir())
    return ExportReport(out, dtype, size, time.monotonic() - started, peak_rss_bytes())
