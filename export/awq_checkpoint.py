"""Linears as AutoAWQ's `gemm` version stores them, and what follows it (GPTQModel, transformers).

Layout: `qweight` int32 [K, N / 8], `qzeros` int32 [K / group_size, N / 8] and `scales` float
[K / group_size, N]. W[n, k] = (code - zero) * scale, code and zero in 0..15. The eight outputs of
an integer, from its lowest bits, are 0, 2, 4, 6, 1, 3, 5, 7. Zero points of 8 are symmetric.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.export.error import ExportError
from edgellama.export.packed import (
    FLOAT_NAMES,
    SYMMETRIC_ZERO,
    PackedTensors,
    block_size_of,
    blocks_linear,
    group_count,
    require_no_bias,
    require_once,
    subtract_zeros,
    unpack_nibbles,
    whole_number,
)
from edgellama.export.stored import Floats, StoredLinear
from edgellama.profiles.model import ModelConfig

# Where output i of eight lies: the inverse of the order above.
_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]


def unpack_outputs(packed: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Unpack int32 [rows, N / 8] to codes 0..15 [rows, N] in the order of the outputs."""
    nibbles = unpack_nibbles(packed).reshape(*packed.shape, 8)
    return nibbles[..., _PLACES].reshape(len(packed), 8 * packed.shape[1])


class AwqLinears:
    """The quantised linears of an AutoAWQ checkpoint."""

    tool = "awq"
    precision = "int4_awq"
    kv = None

    def __init__(
        self, tensors: PackedTensors, model: ModelConfig, settings: Mapping[str, Any], where: str
    ) -> None:
        self._tensors = tensors
        version = str(settings.get("version") or settings.get("format") or "gemm").lower()
        if settings.get("backend") == "llm-awq":
            version = "llm-awq"
        if version != "gemm":
            raise ExportError(
                f"{where}: version is {version!r}; supported: 'gemm', save the model again in it"
            )
        if settings.get("bits") != 4:
            raise ExportError(f"{where}: bits is {settings.get('bits')!r}; supported: 4")
        widths = (model.hidden_size, model.query_size, model.intermediate_size)
        self._group_size = whole_number(settings, "group_size", where)
        self.block_size = block_size_of(self._group_size, widths, f"{where}: group_size")
        self._excluded = [str(part) for part in settings.get("modules_to_not_convert") or ()]
        self.cache: dict[str, Floats] = {}

    def claim(self, name: str, shape: tuple[int, int]) -> bool:
        """Check the tensors of one linear [N, K]; returns False where it is stored as float."""
        tensors, (outputs, inputs) = self._tensors, shape
        module = name.removesuffix(".weight")
        if f"{module}.qweight" not in tensors:
            tensors.claim(name, [shape], FLOAT_NAMES)
            return False
        require_once(tensors, name)
        if any(part in module for part in self._excluded):
            raise ExportError(
                f"{tensors.folder}: {module} is quantised, but modules_to_not_convert names it"
            )
        if outputs % 8:
            raise ExportError(f"{tensors.folder}: {name} has {outputs} outputs; eight are packed")
        groups = group_count(tensors, name, inputs, self._group_size)
        tensors.claim(f"{module}.qweight", [(inputs, outputs // 8)], ["I32"])
        tensors.claim(f"{module}.qzeros", [(groups, outputs // 8)], ["I32"])
        tensors.claim(f"{module}.scales", [(groups, outputs)], FLOAT_NAMES)
        require_no_bias(tensors, module, outputs)
        return True

    def is_exact(self, name: str) -> bool:
        """Return whether every zero point is 8, which codes -8..7 express."""
        zeros = self._tensors.whole(f"{name.removesuffix('.weight')}.qzeros")
        return bool((unpack_nibbles(zeros) == SYMMETRIC_ZERO).all())

    def read(self, name: str, start: int, stop: int) -> StoredLinear:
        """Return outputs [start, stop) of a quantised linear; codes beyond -8..7 if inexact."""
        tensors, module = self._tensors, name.removesuffix(".weight")
        first, last = start // 8, -(-stop // 8)
        keep = slice(start - 8 * first, stop - 8 * first)
        packed = tensors.whole(f"{module}.qweight")[:, first:last]
        codes = np.ascontiguousarray(unpack_outputs(packed)[:, keep].T).view(np.int8)
        zeros = unpack_outputs(tensors.whole(f"{module}.qzeros")[:, first:last])[:, keep].T
        scales = np.ascontiguousarray(tensors.floats(f"{module}.scales")[:, start:stop].T)
        subtract_zeros(codes, zeros.view(np.int8))
        return blocks_linear(codes, scales, self.block_size)
