"""Checkpoint in, portable ONNX out."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from transformers import AutoConfig

from edgellama.export.checkpoint import Checkpoint, open_checkpoint
from edgellama.export.error import ExportError
from edgellama.export.resolve import source_name
from edgellama.export.stage import foreign_name, require_disk_space, staged_directory
from edgellama.export.trace import trace_llama
from edgellama.export.weights import IR_DTYPES, attach_weights

GRAPH_NAME = "model.onnx"
DATA_NAME = "model.onnx.data"
CONFIG_KEY = "edgellama.config"
SOURCE_KEY = "edgellama.source"
FINGERPRINT_KEY = "edgellama.fingerprint"
Progress = Callable[[str, int, int], None]
# Files a later stage needs beside the graph: text, chat and stop behaviour.
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


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


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def portable_model(checkpoint: Checkpoint, dtype: str) -> ir.Model:
    """Return the portable graph of a checkpoint with lazily read weights."""
    config = AutoConfig.from_pretrained(checkpoint.folder)
    model = trace_llama(config, dtype)
    attach_weights(model, checkpoint, dtype)
    model.producer_name = "edgellama"
    model.metadata_props[SOURCE_KEY] = source_name(checkpoint.folder)
    model.metadata_props[CONFIG_KEY] = json.dumps(asdict(checkpoint.model))
    model.metadata_props[FINGERPRINT_KEY] = checkpoint.fingerprint()
    return model


def save_model(model: ir.Model, path: Path, progress: Progress | None, what: str) -> None:
    """Write a graph and its external data, one tensor in memory at a time.

    Raises what a weight's reader raises (ExportError for NaN, for example), not its wrappings.
    """

    def step(_tensor: ir.TensorProtocol, info: ir.external_data.CallbackInfo) -> None:
        if progress is not None:
            progress(what, info.index + 1, info.total)

    try:
        ir.save(model, path, external_data=f"{path.name}.data", callback=step, alignment=4096)
    except ir.serde.SerdeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise cause from None


def _require_replaceable(out: Path) -> None:
    """Refuse to replace a folder that holds anything but an earlier export."""
    name = foreign_name(out, {GRAPH_NAME, DATA_NAME, *SIDE_FILES})
    if name is not None:
        raise ExportError(
            f"{out} holds {name}, which no export writes and which would be lost; choose another "
            "--out or remove it"
        )


def export_portable(
    folder: Path, out: Path, *, dtype: str = "float32", progress: Progress | None = None
) -> ExportReport:
    """Export a checkpoint folder to `out/model.onnx` with external data and the tokenizer's files.

    `progress` receives (stage, done, total). Raises ExportError or UnsupportedModelError before
    any long work, OSError when the disk is too small; `out` is replaced only when all is written.
    """
    started = time.monotonic()
    if dtype not in IR_DTYPES:
        raise ExportError(f"dtype is {dtype!r}; supported: {', '.join(IR_DTYPES)}")
    _require_replaceable(out)
    checkpoint = open_checkpoint(folder)
    width = IR_DTYPES[dtype][1].itemsize
    needed = int(checkpoint.model.num_parameters * width * 1.01) + (64 << 20)
    require_disk_space(out, needed, "the portable model")
    if progress is not None:
        progress("trace", 0, 1)
    model = portable_model(checkpoint, dtype)
    with staged_directory(out) as staging:
        save_model(model, staging / GRAPH_NAME, progress, "write weights")
        for name in SIDE_FILES:
            source = folder / name
            if source.is_file():
                (staging / name).write_bytes(source.read_bytes())
        size = sum(path.stat().st_size for path in staging.iterdir())
    return ExportReport(out, dtype, size, time.monotonic() - started, peak_rss_bytes())
