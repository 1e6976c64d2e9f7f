"""What a build quantises with: a checkpoint's own codes, given scales, or scales measured now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgellama.calibration.calibrate import calibrated_scales
from edgellama.calibration.check_scales import check_model, check_scales
from edgellama.calibration.scale_files import load_scales, read_record
from edgellama.calibration.scales import Scales
from edgellama.export.checkpoint import Checkpoint
from edgellama.export.stored import StoredLinear
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.quantize import quantize_rows
from edgellama.optimize.quantized_graph import nothing_stored, quantize_portable
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import CALIBRATED_KV, Precision, Profile
from edgellama.runtime.text import TextCodec

Progress = Callable[[str, int, int], None]
PRECISION_KEY = "edgellama.precision"  # of a portable model that is quantised
# Precisions that a quantised checkpoint may be read as without rounding codes a second time.
_WIDER = {"int4_awq": ("int8", "fp16", "bf16", "fp32"), "fp8": ("fp16", "bf16", "fp32")}


@dataclass(frozen=True)
class Given:
    """What the user gave to quantise with.

    `scales` is a folder that `edgellama calibrate` wrote; without it scales are measured on `text`
    (a file or folder, the built-in text by default; `split` separates its documents). `exact`
    refuses whatever a quantised checkpoint would lose.
    """

    scales: Path | None = None
    text: Path | None = None
    split: str | None = None
    exact: bool = False

    def digest(self) -> list[str | None]:
        """Return what changes when the given files do."""
        record = None if self.scales is None else json.dumps(read_record(self.scales))
        text = None if self.text is None else _digest(self.text)
        return [record, text, self.split, str(self.exact)]


def _digest(path: Path) -> str:
    """Return the sha256 of a file, or of all files of a folder and their names."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Quantization:
    """Everything that `quantize_portable` and the verification need.

    `record` goes into `engine.json`: where the scales come from, and what rounding codes again
    has lost (`requantized`: linears, and their largest relative error in the root mean square).
    """

    precision: Precision
    scales: Scales | None = None
    stored: Callable[[str], StoredLinear | None] = nothing_stored
    record: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, graph: ir.Model, model: ModelConfig) -> None:
        """Quantise a portable float graph in place; it says so in its metadata."""
        quantize_portable(graph, model, self.precision, self.scales, self.stored)
        graph.metadata_props[PRECISION_KEY] = json.dumps(asdict(self.precision))

    def as_dict(self) -> dict[str, Any]:
        """Return `record` with what was lost, once every linear was read."""
        losses = self.stored.losses if isinstance(self.stored, ImportedLinears) else {}
        if not losses:
            return dict(self.record)
        lost = {"linears": len(losses), "largest_relative_error": max(losses.values())}
        return {**self.record, "requantized": lost}


def require_consistent(checkpoint: Checkpoint, profile: Profile) -> None:
    """Refuse a profile that would round a quantised checkpoint's codes a second time.

    Raises BuildError.
    """
    own = checkpoint.quantization
    wanted = profile.precision.weights
    if own is None or own.precision is None or wanted == own.precision:
        return
    if wanted not in _WIDER[own.precision]:
        alternatives = ", ".join((own.precision, *_WIDER[own.precision]))
        raise BuildError(
            f"{checkpoint.folder.name} is quantised by {own.tool} to {own.precision}, blocks of "
            f"{own.block_size}; precision.weights {wanted!r} would round it a second time. "
            f"Use one of {alternatives}, or the unquantised checkpoint"
        )


class ImportedLinears:
    """The linears of a quantised checkpoint, as stored or, where that cannot be, rounded again.

    Linears with zero points, in activation order, or left in float by the tool, are rounded to
    nearest; `losses` has the relative root mean square error of each, once it was read.
    """

    def __init__(self, checkpoint: Checkpoint, block_size: int) -> None:
        self._checkpoint = checkpoint
        self._block_size = block_size
        self._exact = frozenset(checkpoint.stored_linears)
        self.losses: dict[str, float] = {}

    def __call__(self, name: str) -> StoredLinear:
        """Return one linear, int4 or fp8."""
        if name in self._exact:
            return self._checkpoint.stored(name)
        weight = self._checkpoint.read(name).float().numpy()
        rows = quantize_rows(weight, 4, self._block_size)
        size = float(np.sqrt(np.mean(np.square(weight))))
        error = float(np.sqrt(np.mean(np.square(rows.dequantize() - weight))))
        self.losses[name] = error / size if size else 0.0
        return StoredLinear("int4_awq", rows.codes[:, : rows.width], rows.scales, self._block_size)


def _imported(checkpoint: Checkpoint, precision: Precision, exact: bool) -> ImportedLinears:
    """Check that every linear of the layers can be taken from the checkpoint."""
    own = checkpoint.quantization
    assert own is not None
    layers = [name for name in checkpoint.tensors if name.endswith("_proj.weight")]
    others = [name for name in layers if name not in checkpoint.stored_linears]
    if others and (exact or precision.weights != "int4_awq"):
        raise BuildError(
            f"{checkpoint.folder.name}: {len(others)} linears, {others[0]} first, are not stored "
            f"as {precision.weights} codes; "
            + (
                "leave --exact out to round them to nearest"
                if precision.weights == "int4_awq"
                else "use precision fp16, or the unquantised checkpoint"
            )
        )
    if own.block_size != precision.block_size and precision.weights == "int4_awq":
        raise BuildError(
            f"{checkpoint.folder.name} is quantised in blocks of {own.block_size}, "
            f"precision.block_size is {precision.block_size}; set it to {own.block_size}"
        )
    return ImportedLinears(checkpoint, precision.block_size)


def _require_text(profile: Profile, codec: TextCodec | None) -> TextCodec:
    if codec is None:
        raise BuildError(
            f"profile {profile.name}: precision {profile.precision.weights} with cache "
            f"{profile.precision.kv} needs calibrated scales, and the model has no tokenizer to "
            "measure them with; add tokenizer.json or give --scales"
        )
    return codec


def require_nothing_given(given: Given, precision: Precision) -> None:
    """Refuse scales and text that would be ignored; raises BuildError."""
    for option, value in (("--scales", given.scales), ("--calibration-text", given.text)):
        if value is not None:
            raise BuildError(
                f"{option} {value} is given, but precision {precision.weights} with cache "
                f"{precision.kv} needs no scales here; leave it out"
            )


def given_scales(
    folder: Path, model: ModelConfig, profile: Profile
) -> tuple[Scales, dict[str, Any]]:
    """Load scales and their record, checked against the model and the profile.

    Ranges of cached keys hold up to the capacity that they were measured for. Raises
    CalibrationError and BuildError.
    """
    scales, record = load_scales(folder), read_record(folder)
    check_scales(scales, model, profile.precision)
    measured = record["recipe"]["capacity"]
    wanted = min(profile.limits.capacity, model.max_position_embeddings)
    if profile.precision.kv in CALIBRATED_KV and measured < wanted:
        raise BuildError(
            f"{folder} has cache scales for {measured} positions, the profile's slots hold "
            f"{wanted}; calibrate with that limits.capacity, or lower it to {measured}"
        )
    return scales, record


def quantization_of(
    checkpoint: Checkpoint,
    codec: TextCodec | None,
    profile: Profile,
    given: Given,
    folder: Path,
    progress: Progress | None = None,
) -> Quantization:
    """Return what quantises a checkpoint for a profile, calibrating it where scales are missing.

    New scales are written to `folder`, where the next build finds them. Raises BuildError,
    CalibrationError, ExportError.
    """
    require_consistent(checkpoint, profile)
    precision, own = profile.precision, checkpoint.quantization
    stored: Callable[[str], StoredLinear | None] = nothing_stored
    record: dict[str, Any] = {}
    missing = precision
    cache = None
    if own is not None:
        record["checkpoint"] = f"{own.tool}, {own.precision}, blocks of {own.block_size}"
        if own.precision is not None and precision.weights == own.precision:
            stored = _imported(checkpoint, precision, given.exact)
            missing = replace(missing, weights="fp32")
        if own.kv is not None and precision.kv == own.kv:
            cache = own.cache
            missing = replace(missing, kv="fp32")
    if not missing.is_calibrated:
        require_nothing_given(given, precision)
        scales = None if cache is None else Scales(None, 0, {}, precision.kv, cache)
        return Quantization(precision, scales, stored, record)
    if given.scales is not None:
        needed = replace(profile, precision=missing)
        scales, origin = given_scales(given.scales, checkpoint.model, needed)
        check_model(origin, checkpoint)
    else:
        needed = replace(profile, precision=missing)
        scales = calibrated_scales(
            checkpoint,
            _require_text(profile, codec),
            needed,
            given.text,
            folder,
            progress,
            split=given.split,
        )
        origin = read_record(folder)
    if cache is not None:
        scales = replace(scales, kv=precision.kv, cache=cache)
    return Quantization(precision, scales, stored, {**record, "scales": origin})
