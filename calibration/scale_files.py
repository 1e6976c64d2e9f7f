"""Calibrated scales on disk: a folder of one safetensors and one JSON, to be reused and shared."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edgellama.calibration.recipe import CalibrationError
from edgellama.calibration.scales import LinearScales, Scales
from edgellama.export.stage import foreign_name, staged_directory

Floats = npt.NDArray[np.float32]
TENSORS_NAME = "scales.safetensors"
RECORD_NAME = "scales.json"
SCHEMA_VERSION = 1
_AGAIN = "calibrate again or fetch the folder again"


def pack(linears: Mapping[str, LinearScales], cache: Mapping[str, Floats]) -> bytes:
    """Return scales as the bytes of a safetensors file; the same scales give the same bytes."""
    tensors: dict[str, Floats] = {}  # np.array, for ascontiguousarray makes [1] of []
    for name, scales in linears.items():
        tensors[f"{name}.amax"] = np.array(scales.amax, order="C")
        if scales.pre_scale is not None:
            tensors[f"{name}.pre_scale"] = np.array(scales.pre_scale, order="C")
        if scales.input_amax is not None:
            tensors[f"{name}.input_amax"] = np.array(scales.input_amax, np.float32)
    tensors |= {f"cache.{name}": np.array(amax, order="C") for name, amax in cache.items()}
    data: bytes = save(tensors)
    return data


def unpack(data: bytes, origin: Path) -> tuple[dict[str, LinearScales], dict[str, Floats]]:
    """Return the linears and cache that `pack` wrote; raises CalibrationError naming `origin`."""
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise CalibrationError(f"{origin}: not a safetensors file ({error}); {_AGAIN}") from error
    linears: dict[str, LinearScales] = {}
    cache: dict[str, Floats] = {}
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all() or (tensor < 0).any():
            raise CalibrationError(
                f"{origin}: tensor {name} is not float32, finite and >= 0; {_AGAIN}"
            )
        if name.startswith("cache."):
            cache[name.removeprefix("cache.")] = tensor
        elif name.endswith(".amax"):
            weight = name.removesuffix(".amax")
            step = tensors.get(f"{weight}.input_amax")
            linears[weight] = LinearScales(
                amax=tensor,
                pre_scale=tensors.get(f"{weight}.pre_scale"),
                input_amax=None if step is None else float(step),
            )
    known = len(cache) + sum(
        1 + (item.pre_scale is not None) + (item.input_amax is not None)
        for item in linears.values()
    )
    if known != len(tensors):
        raise CalibrationError(f"{origin}: holds tensors that belong to no scale; {_AGAIN}")
    return linears, cache


def save_scales(folder: Path, scales: Scales, record: Mapping[str, Any]) -> None:
    """Write scales and what they were made from into `folder`, which appears whole or not at all.

    `require_writable` says what a folder may be.
    """
    require_writable(folder)
    data = pack(scales.linears, scales.cache)
    document = {
        "schema_version": SCHEMA_VERSION,
        "weights": scales.weights,
        "block_size": scales.block_size,
        "kv": scales.kv,
        **record,
        "files": {TENSORS_NAME: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}},
    }
    with staged_directory(folder) as staging:
        write_durably(staging / TENSORS_NAME, data)
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        write_durably(staging / RECORD_NAME, text.encode())


def require_writable(folder: Path) -> None:
    """Raise CalibrationError for a file, and for a folder with other things: they would be lost."""
    if folder.exists() and not folder.is_dir():
        raise CalibrationError(f"{folder} is a file; scales are a folder: choose another")
    other = foreign_name(folder, (TENSORS_NAME, RECORD_NAME))
    if other is not None:
        raise CalibrationError(
            f"{folder} holds {other}, which calibration did not write; choose another folder"
        )


def write_durably(path: Path, data: bytes) -> None:
    """Put `data` at `path` whole or not at all, on the disk before this returns."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_record(folder: Path) -> dict[str, Any]:
    """Return the JSON of a scales folder; raises CalibrationError where it is none of ours."""
    path = folder / RECORD_NAME
    if not path.is_file():
        raise CalibrationError(
            f"{folder}: no {RECORD_NAME}; make the scales with `edgellama calibrate`"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: not JSON ({error}); {_AGAIN}") from error
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise CalibrationError(
            f"{path}: schema_version is {version!r}; this release reads {SCHEMA_VERSION}"
        )
    assert isinstance(record, dict)
    return record


def load_scales(folder: Path) -> Scales:
    """Read a scales folder whole; raises CalibrationError for a damaged or foreign one."""
    record = read_record(folder)
    path = folder / TENSORS_NAME
    if not path.is_file():
        raise CalibrationError(f"{folder}: {TENSORS_NAME} is missing; {_AGAIN}")
    data = path.read_bytes()
    try:
        expected = record["files"][TENSORS_NAME]["sha256"]
        fields = {key: record[key] for key in ("weights", "block_size", "kv")}
    except (KeyError, TypeError) as error:
        raise CalibrationError(f"{folder / RECORD_NAME}: lacks {error}; {_AGAIN}") from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise CalibrationError(f"{path}: altered or cut short (sha256 differs); {_AGAIN}")
    linears, cache = unpack(data, path)
    return Scales(linears=linears, cache=cache, **fields)
