"""Linears as NVIDIA ModelOpt's unified Hugging Face export stores them: INT4 AWQ and FP8.

Layout, from `modelopt/torch/export` (quant_utils.pack_int4_in_uint8, unified_export_hf):

- W4A16_AWQ: `weight` uint8 [N / 2, K], of two outputs the even one in the low nibble, codes in
  two's complement; `weight_scale` [N, K / group_size]; `pre_quant_scale` [K], which multiplies the
  input, where it was not folded into the norm before.
- FP8: `weight` float8_e4m3fn [N, K]; `weight_scale` and `input_scale`, one element each.
- FP8 cache: `k_proj.k_scale` and `v_proj.v_scale`, one element each; none at all where the range
  was pinned to float8's own, 448 (`use_constant_amax`).
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

import numpy as np

from edgellama.export.error import ExportError
from edgellama.export.packed import (
    FLOAT_NAMES,
    PackedTensors,
    block_size_of,
    blocks_linear,
    float8,
    group_count,
    unpack_nibbles,
    whole_number,
)
from edgellama.export.stored import Floats, StoredLinear
from edgellama.profiles.model import ModelConfig

PRECISIONS = {"W4A16_AWQ": "int4_awq", "FP8": "fp8", None: None}
_PACKED_DTYPES = {"int4_awq": "U8", "fp8": "F8_E4M3"}
_FP8_MAX = 448.0
_SCALAR = [(), (1,)]


class ModelOptLinears:
    """The quantised linears of a ModelOpt checkpoint."""

    tool = "modelopt"

    def __init__(
        self, tensors: PackedTensors, model: ModelConfig, settings: Mapping[str, Any], where: str
    ) -> None:
        self._tensors = tensors
        algorithm = settings.get("quant_algo")
        if not isinstance(algorithm, str | None) or algorithm not in PRECISIONS:
            raise ExportError(
                f"{where}: quant_algo is {algorithm!r}; supported: W4A16_AWQ (INT4 AWQ) and FP8, "
                "or give the unquantised checkpoint"
            )
        if settings.get("has_zero_point"):
            raise ExportError(f"{where}: has_zero_point is true; ModelOpt's INT4 AWQ has none")
        self.precision = PRECISIONS[algorithm]
        self._excluded = [str(p) for p in _list(settings, ("exclude_modules", "ignore"), where)]
        self.block_size = 0
        if self.precision == "int4_awq":
            widths = (model.hidden_size, model.query_size, model.intermediate_size)
            self.block_size = block_size_of(
                self._group_size(settings, where), widths, f"{where}: group_size"
            )
        self.kv = _cache_precision(settings, where)
        self.cache = self._read_cache(model) if self.kv else {}

    def claim(self, name: str, shape: tuple[int, int]) -> bool:
        """Check the tensors of one linear [N, K]; returns False where it is stored as float."""
        tensors, (outputs, inputs) = self._tensors, shape
        record = tensors.records.get(name)
        wanted = _PACKED_DTYPES.get(self.precision or "")
        if record is None or record.dtype != wanted:
            tensors.claim(name, [shape], [*FLOAT_NAMES, *([wanted] if wanted else [])])
            return False
        module = name.removesuffix(".weight")
        if any(fnmatch(module, pattern) for pattern in self._excluded):
            raise ExportError(
                f"{tensors.folder}: {name} is quantised, but the configuration excludes it"
            )
        if self.precision == "fp8":
            tensors.claim(name, [shape], [wanted])
            for part in ("weight_scale", "input_scale"):
                tensors.claim(f"{module}.{part}", _SCALAR, FLOAT_NAMES)
            return True
        if outputs % 2:
            raise ExportError(f"{tensors.folder}: {name} has {outputs} outputs; two share a byte")
        tensors.claim(name, [(outputs // 2, inputs)], [wanted])
        scales = (outputs, group_count(tensors, name, inputs, self.block_size))
        tensors.claim(f"{module}.weight_scale", [scales], FLOAT_NAMES)
        if f"{module}.pre_quant_scale" in tensors:
            tensors.claim(f"{module}.pre_quant_scale", [(inputs,)], FLOAT_NAMES)
        return True

    def is_exact(self, name: str) -> bool:
        """Return True: both formats are symmetric."""
        return True

    def read(self, name: str, start: int, stop: int) -> StoredLinear:
        """Return outputs [start, stop) of a quantised linear."""
        tensors, module = self._tensors, name.removesuffix(".weight")
        if self.precision == "fp8":
            codes = float8(tensors.rows(name, start, stop), name, tensors.folder)
            scale = np.full((1, 1), tensors.scalar(f"{module}.weight_scale"), np.float32)
            step = tensors.scalar(f"{module}.input_scale")
            return StoredLinear("fp8", codes, scale, 0, input_scale=step)
        first = start // 2
        packed = tensors.rows(name, first, -(-stop // 2))
        nibbles = unpack_nibbles(packed).reshape(*packed.shape, 2)
        signed = nibbles.transpose(0, 2, 1).reshape(-1, packed.shape[1]).view(np.int8)
        signed = ((signed ^ 8) - 8)[start - 2 * first : stop - 2 * first]
        pre_scale = None
        if f"{module}.pre_quant_scale" in tensors:
            pre_scale = tensors.floats(f"{module}.pre_quant_scale")
            if (pre_scale <= 0).any():
                raise ExportError(
                    f"{tensors.folder}: {module}.pre_quant_scale holds {float(pre_scale.min())}; "
                    "a scale must be above 0"
                )
        scales = tensors.floats(f"{module}.weight_scale", start, stop)
        return blocks_linear(signed, scales, self.block_size, pre_scale)

    def _group_size(self, settings: Mapping[str, Any], where: str) -> int:
        """Return the declared size; config.json's form of the settings omits it: then the scales'.

        All linears are checked against it when they are claimed.
        """
        if "group_size" in settings:
            return whole_number(settings, "group_size", where)
        for record_name, record in self._tensors.records.items():
            if record_name.endswith("_proj.weight_scale") and len(record.shape) == 2:
                weight = self._tensors.records.get(record_name.removesuffix("_scale"))
                if weight is not None and weight.dtype == "U8" and record.shape[1]:
                    return weight.shape[1] // record.shape[1]
        raise ExportError(
            f"{self._tensors.folder}: no linear is stored as INT4 with a weight_scale"
        )

    def _read_cache(self, model: ModelConfig) -> dict[str, Floats]:
        """Return the largest magnitude float32 [1] by `LAYER.key` and `LAYER.value`."""
        names = {
            f"{layer}.{kind}": f"model.layers.{layer}.self_attn.{part}"
            for layer in range(model.num_layers)
            for kind, part in (("key", "k_proj.k_scale"), ("value", "v_proj.v_scale"))
        }
        if not any(name in self._tensors for name in names.values()):
            return {key: np.full(1, _FP8_MAX, np.float32) for key in names}
        for name in names.values():
            self._tensors.claim(name, _SCALAR, FLOAT_NAMES)
        return {
            key: np.full(1, self._tensors.scalar(name) * _FP8_MAX, np.float32)
            for key, name in names.items()
        }


def _list(settings: Mapping[str, Any], keys: tuple[str, ...], where: str) -> list[Any]:
    for key in keys:
        value = settings.get(key)
        if value is not None:
            if not isinstance(value, list):
                raise ExportError(f"{where}: {key} is {value!r}; a list is needed")
            return value
    return []


def _cache_precision(settings: Mapping[str, Any], where: str) -> str | None:
    """Read both spellings: `kv_cache_quant_algo`, and config.json's `kv_cache_scheme`."""
    algorithm = settings.get("kv_cache_quant_algo")
    scheme = settings.get("kv_cache_scheme")
    if scheme is not None:
        is_fp8 = isinstance(scheme, Mapping) and (
            scheme.get("type") == "float"
            and scheme.get("num_bits") == 8
            and not scheme.get("dynamic")
        )
        algorithm = "FP8" if is_fp8 else scheme
    if algorithm is None:
        return None
    if algorithm != "FP8":
        raise ExportError(f"{where}: the cache's quantisation is {algorithm!r}; supported: FP8")
    return "fp8"
