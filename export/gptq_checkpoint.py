"""Linears as AutoGPTQ and GPTQModel store them.

Layout: `qweight` int32 [K / 8, N], eight consecutive inputs an integer from its lowest bits;
`qzeros` int32 [groups, N / 8], likewise over outputs; `scales` float [groups, N]; `g_idx` int32
[K], the group of each input, which some tools leave out without `desc_act`. W[n, k] = (code -
zero) * scale, code in 0..15. `checkpoint_format` `gptq` stores zero - 1, `gptq_v2` the zero
itself. Zero points of 8 are symmetric.
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

# What the stored zero point lacks, by checkpoint_format.
_ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}


class GptqLinears:
    """The quantised linears of a GPTQ checkpoint."""

    tool = "gptq"
    precision = "int4_awq"
    kv = None

    def __init__(
        self, tensors: PackedTensors, model: ModelConfig, settings: Mapping[str, Any], where: str
    ) -> None:
        self._tensors = tensors
        if settings.get("bits") != 4:
            raise ExportError(f"{where}: bits is {settings.get('bits')!r}; supported: 4")
        layout = str(settings.get("checkpoint_format") or settings.get("format") or "gptq").lower()
        if settings.get("is_marlin_format"):
            layout = "marlin"
        if layout not in _ZERO_OFFSETS:
            raise ExportError(
                f"{where}: checkpoint_format is {layout!r}; supported: {', '.join(_ZERO_OFFSETS)}"
            )
        self._offset = _ZERO_OFFSETS[layout]
        self._may_be_reordered = settings.get("desc_act", False) is not False
        packing = settings.get("pack_dtype") or "int32"
        if packing != "int32":
            raise ExportError(f"{where}: pack_dtype is {packing!r}; supported: 'int32'")
        for pattern in settings.get("dynamic") or ():
            if not pattern.startswith("-:"):  # that one only leaves modules as they were
                raise ExportError(
                    f"{where}: dynamic gives {pattern!r} settings of its own; one for all linears "
                    "is supported"
                )
        widths = (model.hidden_size, model.query_size, model.intermediate_size)
        self._group_size = whole_number(settings, "group_size", where)
        self.block_size = block_size_of(self._group_size, widths, f"{where}: group_size")
        self.cache: dict[str, Floats] = {}

    def claim(self, name: str, shape: tuple[int, int]) -> bool:
        """Check the tensors of one linear [N, K]; returns False where it is stored as float."""
        tensors, (outputs, inputs) = self._tensors, shape
        module = name.removesuffix(".weight")
        if f"{module}.qweight" not in tensors:
            tensors.claim(name, [shape], FLOAT_NAMES)
            return False
        require_once(tensors, name)
        if outputs % 8 or inputs % 8:
            raise ExportError(f"{tensors.folder}: {name} is {list(shape)}; eight codes are packed")
        groups = group_count(tensors, name, inputs, self._group_size)
        tensors.claim(f"{module}.qweight", [(inputs // 8, outputs)], ["I32"])
        tensors.claim(f"{module}.qzeros", [(groups, outputs // 8)], ["I32"])
        tensors.claim(f"{module}.scales", [(groups, outputs)], FLOAT_NAMES)
        if self._may_be_reordered or f"{module}.g_idx" in tensors:
            tensors.claim(f"{module}.g_idx", [(inputs,)], ["I32"])
        require_no_bias(tensors, module, outputs)
        return True

    def is_exact(self, name: str) -> bool:
        """Return whether zero points are all 8 and groups are consecutive inputs."""
        return self._in_order(name) and bool((self._zeros(name) == SYMMETRIC_ZERO).all())

    def read(self, name: str, start: int, stop: int) -> StoredLinear:
        """Return outputs [start, stop) of a quantised linear.

        Where it is inexact, codes may lie beyond -8..7, and groups of inputs in activation order
        (`desc_act`) appear as a scale for each input, block size 1.
        """
        tensors, module = self._tensors, name.removesuffix(".weight")
        packed = tensors.whole(f"{module}.qweight")[:, start:stop].T
        codes = unpack_nibbles(packed).view(np.int8)
        zeros = self._zeros(name)[:, start:stop].T
        scales = np.ascontiguousarray(tensors.floats(f"{module}.scales")[:, start:stop].T)
        if not self._in_order(name):
            order = tensors.whole(f"{module}.g_idx")
            return blocks_linear(codes - zeros[:, order], scales[:, order], 1)
        subtract_zeros(codes, zeros)
        return blocks_linear(codes, scales, self.block_size)

    def _in_order(self, name: str) -> bool:
        """Return whether input k belongs to group k / group_size."""
        full = f"{name.removesuffix('.weight')}.g_idx"
        if full not in self._tensors:
            return True
        order = self._tensors.whole(full)
        groups = group_count(self._tensors, name, len(order), self._group_size)
        if order.min() < 0 or order.max() >= groups:
            raise ExportError(
                f"{self._tensors.folder}: {full} names group {int(order.max())} or "
                f"{int(order.min())}; there are {groups}"
            )
        return bool((order == np.arange(len(order)) // (len(order) // groups)).all())

    def _zeros(self, name: str) -> npt.NDArray[np.int8]:
        """Return the zero points int8 [groups, N]."""
        full = f"{name.removesuffix('.weight')}.qzeros"
        zeros = unpack_nibbles(self._tensors.whole(full)).view(np.int8)
        if self._offset and (zeros == 15).any():
            raise ExportError(
                f"{self._tensors.folder}: {full} stores 15, which tools that write format gptq "
                "(zero - 1) read as 0 or as 16; save the checkpoint in format gptq_v2"
            )
        return zeros + np.int8(self._offset)
