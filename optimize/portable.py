"""Checkpoint to portable ONNX model at any precision: the artefact that every target reads."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from edgellama.export.to_onnx import ExportReport, Progress, export_portable
from edgellama.optimize.build import read_checkpoint
from edgellama.optimize.engine_files import write_text_files
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.quantization import (
    Given,
    quantization_of,
    require_nothing_given,
)
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import (
    FLOAT_PRECISIONS,
    Build,
    Device,
    Limits,
    Precision,
    Profile,
)
from edgellama.runtime.text import TextCodec

_ANY_MEMORY_GIB = 1e9
_PRECISION_OF = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_DTYPE_OF = {precision: dtype for dtype, precision in _PRECISION_OF.items()}


def portable_profile(model: ModelConfig) -> Profile:
    """Return what an export has without a profile: floats, and cache scales for any position."""
    return Profile(
        name="export",
        description="A portable model for no device in particular",
        model="",
        device=Device("cpu", _ANY_MEMORY_GIB, 1),
        build=Build("ort", "onnxruntime"),
        precision=Precision("fp32", "fp32", "fp32"),
        limits=Limits(1, model.max_position_embeddings, 1, 1),
    )


def read_codec(folder: Path, adapter: Path | None = None) -> TextCodec:
    """Read the tokenizer and the generation settings of a checkpoint or an exported model."""
    with tempfile.TemporaryDirectory() as staging:
        write_text_files(folder, Path(staging), adapter)
        return TextCodec.load(Path(staging))


def _require_agreement(precision: Precision, dtype: str) -> None:
    """Refuse float storage that a graph of this type would not have; fp32 stands for its own.

    Raises BuildError.
    """
    own = _PRECISION_OF[dtype]
    if precision.compute not in ("fp32", own):
        raise BuildError(
            f"precision.compute is {precision.compute!r}, but a graph of dtype {dtype} computes in "
            f"{own}; use --dtype {_DTYPE_OF[precision.compute]}"
        )
    for field in ("weights", "embedding", "kv"):
        value = getattr(precision, field)
        narrowed = own == "fp32" and field != "kv"  # weights are cast where they are read
        if value in FLOAT_PRECISIONS and value not in ("fp32", own) and not narrowed:
            raise BuildError(
                f"precision.{field} is {value!r}, but a graph of dtype {dtype} keeps floats as "
                f"{own}; use --dtype {_DTYPE_OF[value]}, or leave the precision out"
            )


def export_model(
    folder: Path,
    out: Path,
    profile: Profile,
    *,
    dtype: str = "float32",
    adapter: Path | None = None,
    given: Given | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a checkpoint folder at a profile's precision, its cache precision included.

    `dtype` is what the graph computes in. Scales that the precision needs and `given` has not are
    measured first and kept in `<out>.scales`. Raises what `export_portable` and the calibration
    raise, before any long work; `out` is replaced only when all is written.
    """
    _require_agreement(profile.precision, dtype)
    given = given or Given()
    checkpoint = read_checkpoint(folder, adapter, given)
    if profile.precision.is_float32:
        require_nothing_given(given, profile.precision)
        return export_portable(folder, out, dtype=dtype, progress=progress, checkpoint=checkpoint)
    # What the graph computes in is the dtype's to say, and an engine must be able to read it.
    precision = replace(profile.precision, compute=_PRECISION_OF[dtype])
    profile = replace(profile, precision=precision)
    codec = read_codec(folder, adapter) if profile.precision.is_calibrated else None
    scales = out.with_name(f"{out.name}.scales")
    quantization = quantization_of(checkpoint, codec, profile, given, scales, progress)
    return export_portable(
        folder,
        out,
        dtype=dtype,
        progress=progress,
        checkpoint=checkpoint,
        transform=lambda graph: quantization.apply(graph, checkpoint.model),
    )
