"""A quantised checkpoint folder: a plain Llama to its readers, and the codes of its linears."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from edgellama.export.awq_checkpoint import AwqLinears
from edgellama.export.checkpoint import Checkpoint, expected_tensors
from edgellama.export.error import ExportError
from edgellama.export.gptq_checkpoint import GptqLinears
from edgellama.export.modelopt_checkpoint import ModelOptLinears
from edgellama.export.packed import FLOAT_NAMES, PackedTensors
from edgellama.export.shard import TensorRecord
from edgellama.export.stored import CheckpointQuantization, Floats, StoredLinear
from edgellama.profiles.model import ModelConfig, require_quantization_method

_BLOCK_ELEMENTS = 1 << 24  # weights widened to float32 at once


class QuantizedLinears(Protocol):
    """One tool's layout of the quantised linears of one checkpoint; weights are named as usual."""

    @property
    def tool(self) -> str:
        """Return the name of the tool."""

    @property
    def precision(self) -> str | None:
        """Return what its linears are stored in; None where only the cache is quantised."""

    @property
    def block_size(self) -> int:
        """Return the inputs that share a scale, or 0."""

    @property
    def kv(self) -> str | None:
        """Return the cache's precision."""

    @property
    def cache(self) -> Mapping[str, Floats]:
        """Return the cache's ranges; see CheckpointQuantization."""

    def claim(self, name: str, shape: tuple[int, int]) -> bool:
        """Check the tensors of one linear [N, K]; returns False where it is stored as float."""

    def is_exact(self, name: str) -> bool:
        """Return whether a quantised linear is symmetric, in blocks of consecutive inputs."""

    def read(self, name: str, start: int, stop: int) -> StoredLinear:
        """Return outputs [start, stop) of a quantised linear."""


Opener = Callable[[PackedTensors, ModelConfig, Mapping[str, Any], str], QuantizedLinears]
OPENERS: Mapping[str, Opener] = {
    "modelopt": ModelOptLinears,
    "awq": AwqLinears,
    "gptq": GptqLinears,
}


@dataclass(frozen=True)
class Declaration:
    """Which tool quantised a checkpoint, its settings, and the file and field that say so."""

    tool: str
    settings: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class QuantizedCheckpoint(Checkpoint):
    """A checkpoint with quantised linears; they read as float32, everything else as stored.

    `stored_linears` names the weights whose codes `stored` returns. `inexact` names those that
    int4 codes with one scale a block cannot express (zero points, groups in activation order):
    they are only read as float32.
    """

    linears: QuantizedLinears
    packed: Mapping[str, TensorRecord]

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) of one tensor, float32 where it is quantised."""
        if name not in self.stored_linears and name not in self.inexact:
            return super().read_rows(name, start, stop)
        linear = self.linears.read(name, start, stop)
        inputs = linear.codes.shape[1]
        weight = np.empty((stop - start, inputs), np.float32)
        step = max(1, _BLOCK_ELEMENTS // inputs)
        for first in range(0, len(weight), step):
            weight[first : first + step] = linear.rows(first, first + step).dequantize()
        return torch.from_numpy(weight)

    def stored(self, name: str) -> StoredLinear:
        """Return the codes and scales of one weight of `stored_linears`, exactly as stored."""
        if name not in self.stored_linears:
            return super().stored(name)
        return self.linears.read(name, 0, self.tensors[name].shape[0])

    def _weight_files(self) -> set[Path]:
        return {record.file for record in self.packed.values()}


def read_declaration(folder: Path) -> Declaration | None:
    """Return what the folder says of its quantisation; None where nothing does.

    Looks into `hf_quant_config.json` (ModelOpt), the `quantization_config` of `config.json`,
    `quantize_config.json` (AutoGPTQ before it used config.json) and `quant_config.json` (AutoAWQ
    likewise). Raises UnsupportedModelError for another tool, ExportError for contradictions.
    """
    config = _read_object(folder / "config.json").get("quantization_config") or None
    method = None if config is None else require_quantization_method(config)
    found = [
        name
        for name in ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
        if (folder / name).is_file()
    ]
    if len(found) > 1 and config is None:
        raise ExportError(f"{folder}: {' and '.join(found)} both describe a quantisation; keep one")
    if "hf_quant_config.json" in found:
        if method not in (None, "modelopt"):
            raise ExportError(
                f"{folder}: hf_quant_config.json is ModelOpt's, but config.json says {method!r}"
            )
        raw = _read_object(folder / "hf_quant_config.json")
        producer = raw.get("producer")
        if not isinstance(producer, dict) or producer.get("name") != "modelopt":
            raise ExportError(
                f"{folder}: hf_quant_config.json has the producer {producer!r}; only ModelOpt's "
                "is supported"
            )
        settings = raw.get("quantization")
        if not isinstance(settings, dict):
            raise ExportError(f"{folder}: hf_quant_config.json has no object `quantization`")
        return Declaration("modelopt", settings, f"{folder}: hf_quant_config.json")
    if config is not None:
        assert method is not None
        return Declaration(method, config, f"{folder}: config.json: quantization_config")
    if "quantize_config.json" in found:
        raw = _read_object(folder / "quantize_config.json")
        require_quantization_method({"quant_method": "gptq", **raw}, "quantize_config.json")
        method = str(raw.get("quant_method", "gptq"))
        return Declaration(method, raw, f"{folder}: quantize_config.json")
    if "quant_config.json" in found:
        raw = _read_object(folder / "quant_config.json")
        names = {"w_bit": "bits", "q_group_size": "group_size"}
        settings = {names.get(key, key): value for key, value in raw.items()}
        return Declaration("awq", settings, f"{folder}: quant_config.json")
    return None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ExportError(f"{path}: holds a {type(raw).__name__}; an object is needed")
    return raw


def open_quantized(
    folder: Path,
    model: ModelConfig,
    records: Mapping[str, TensorRecord],
    declaration: Declaration,
    exact: bool,
) -> QuantizedCheckpoint:
    """Check a quantised checkpoint whole; reads its headers, zero points and group indices.

    With `exact`, a linear that would have to be rounded again is an error. Raises ExportError for
    missing, duplicate, unexpected and wrongly shaped tensors, and settings that are not supported.
    """
    tensors = PackedTensors(folder, records)
    linears = OPENERS[declaration.tool](tensors, model, declaration.settings, declaration.where)
    expected = dict(expected_tensors(model))
    stored: list[str] = []
    inexact: list[str] = []
    for name, shape in expected.items():
        if len(shape) != 2 or name == "model.embed_tokens.weight":
            tensors.claim(name, [shape], FLOAT_NAMES)
        elif linears.claim(name, (shape[0], shape[1])):
            (stored if linears.is_exact(name) else inexact).append(name)
    for name in tensors.unclaimed():
        raise ExportError(f"{folder}: tensor {name} does not belong to this configuration")
    if not stored and not inexact and linears.kv is None:
        raise ExportError(f"{declaration.where} is set, but no linear of {folder} is quantised")
    if exact and inexact:
        raise ExportError(
            f"{folder}: {len(inexact)} linears, {inexact[0]} first, have zero points other than 8 "
            "or groups in activation order (desc_act), which symmetric int4 blocks cannot express; "
            "leave --exact out (they are rounded again and the loss is reported), or give a "
            "symmetric checkpoint (AutoAWQ zero_point false; GPTQ sym true, desc_act false)"
        )
    quantization = CheckpointQuantization(
        tool=linears.tool,
        precision=linears.precision if stored or inexact else None,
        block_size=linears.block_size,
        symmetric=not inexact,
        kv=linears.kv,
        cache=linears.cache,
    )
    shown = dict(_as_read(expected, records, {*stored, *inexact}))
    return QuantizedCheckpoint(
        folder,
        model,
        shown,
        quantization=quantization,
        stored_linears=tuple(stored),
        inexact=tuple(inexact),
        linears=linears,
        packed=records,
    )


def _as_read(
    expected: Mapping[str, tuple[int, ...]],
    records: Mapping[str, TensorRecord],
    quantized: set[str],
) -> Iterator[tuple[str, TensorRecord]]:
    """Yield each weight with the dtype and shape that `read` returns."""
    for name, shape in expected.items():
        if name in quantized:
            source = records.get(name) or records[f"{name.removesuffix('.weight')}.qweight"]
            yield name, TensorRecord(source.file, "F32", shape, source.offset)
        else:
            yield name, records[name]
