"""Are these scales those of this model at this precision?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from edgellama.calibration.recipe import BLOCK_PRECISION, CalibrationError
from edgellama.calibration.scales import LinearScales, Scales
from edgellama.export.checkpoint import Checkpoint, expected_tensors
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import CALIBRATED_KV, CALIBRATED_WEIGHTS, Precision

_SAMPLED_ROWS = 2  # of each linear; enough to tell one training from another


def weights_digest(checkpoint: Checkpoint) -> str:
    """Return a digest of the model's first rows of every linear, and of nothing else.

    Unlike the fingerprint of the files it is the same for a copy of them, whose times differ; the
    shape of a model says nothing about which of its trainings it is.
    """
    digest = hashlib.sha256()
    for name, _shape in _linears(checkpoint.model):
        rows = checkpoint.read_rows(name, 0, _SAMPLED_ROWS)
        digest.update(name.encode() + b"\0" + rows.to(torch.float32).numpy().tobytes())
    return digest.hexdigest()


def check_model(record: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Raise CalibrationError where scales were measured on another model of the same shape.

    `record` is the JSON beside the scales, as `read_record` returns it.
    """
    origin = record.get("model")
    found = origin.get("weights_digest") if isinstance(origin, Mapping) else None
    if found != weights_digest(checkpoint):
        name = origin.get("name") if isinstance(origin, Mapping) else None
        raise CalibrationError(
            f"the scales were measured on other weights (of {name!r}) than those of "
            f"{checkpoint.folder}; calibrate this model"
        )


def check_scales(scales: Scales, model: ModelConfig, precision: Precision) -> None:
    """Raise CalibrationError, naming what differs, where the scales do not fit.

    Every precision that needs scales must have them, for every layer, in the shapes of the model.
    """
    if precision.weights in CALIBRATED_WEIGHTS:
        _same("weights", scales.weights, precision.weights)
        if precision.weights == BLOCK_PRECISION:
            _same("block_size", scales.block_size, precision.block_size)
        shapes = dict(_linears(model))
        _same_names("linears", scales.linears, shapes)
        for name, shape in shapes.items():
            _check_linear(name, scales.linears[name], shape, scales)
    if precision.kv in CALIBRATED_KV:
        _same("kv", scales.kv, precision.kv)
        parts = [f"{i}.{part}" for i in range(model.num_layers) for part in ("key", "value")]
        _same_names("cache", scales.cache, parts)
        for name in parts:
            _same_shape(f"cache.{name}", scales.cache[name].shape, (1,), (model.kv_size,))


def _linears(model: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape [N, K] of every linear of the decoder layers."""
    for name, shape in expected_tensors(model):
        if name.endswith("_proj.weight"):
            yield name, shape


def _check_linear(name: str, linear: LinearScales, shape: tuple[int, ...], scales: Scales) -> None:
    rows, columns = shape
    if scales.weights == BLOCK_PRECISION:
        _same_shape(f"{name}.amax", linear.amax.shape, (rows, columns // scales.block_size))
    else:
        _same_shape(f"{name}.amax", linear.amax.shape, (rows,) if scales.weights != "fp8" else ())
        if linear.input_amax is None:
            raise CalibrationError(f"the scales lack {name}.input_amax; calibrate again")
    if linear.pre_scale is not None:
        _same_shape(f"{name}.pre_scale", linear.pre_scale.shape, (columns,))


def _same(field: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise CalibrationError(
            f"the scales are for {field} {found!r}, but the profile's precision.{field} is "
            f"{wanted!r}; calibrate for it or change the profile"
        )


def _same_names(what: str, found: Iterable[str], wanted: Iterable[str]) -> None:
    found, wanted = set(found), set(wanted)
    for name in sorted(found ^ wanted):
        state = "are missing in" if name in wanted else "do not belong to this model but are in"
        raise CalibrationError(
            f"{what}: scales of {name} {state} the scales; they are of another model, calibrate "
            "this one"
        )


def _same_shape(name: str, found: tuple[int, ...], *wanted: tuple[int, ...]) -> None:
    if found not in wanted:
        listed = " or ".join(str(list(shape)) for shape in wanted)
        raise CalibrationError(
            f"{name} has shape {list(found)}; this model at this precision needs {listed}: the "
            "scales are of another model or precision, calibrate this one"
        )
