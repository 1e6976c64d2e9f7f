"""The tensors of a quantised checkpoint as its files hold them: checked, not yet decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch

from edgellama.export.error import ExportError
from edgellama.export.shard import TensorRecord, read_rows
from edgellama.export.stored import Floats, StoredLinear
from edgellama.profiles.profile import BLOCK_SIZES

FLOAT_NAMES = ("F32", "F16", "BF16")
SYMMETRIC_ZERO = 8  # the zero point of unsigned codes 0..15 that stand for -8..7


class PackedTensors:
    """The tensors of one folder; every one must be claimed before the checkpoint is accepted."""

    def __init__(self, folder: Path, records: Mapping[str, TensorRecord]) -> None:
        self.folder = folder
        self.records = records
        self._claimed: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.records

    def claim(self, name: str, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> None:
        """Check that a tensor is there with one of the shapes and dtypes, and count it as known."""
        record = self.records.get(name)
        if record is None:
            raise ExportError(f"{self.folder}: tensor {name} is missing")
        if record.dtype not in dtypes:
            raise ExportError(
                f"{self.folder}: tensor {name} has dtype {record.dtype}; supported: "
                f"{', '.join(dtypes)}"
            )
        if record.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise ExportError(
                f"{self.folder}: tensor {name} has shape {list(record.shape)}; the configuration "
                f"makes it {wanted}"
            )
        self._claimed.add(name)

    def unclaimed(self) -> list[str]:
        """Return the names that nothing has asked for."""
        return [name for name in self.records if name not in self._claimed]

    def rows(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows [start, stop) of a tensor of integers, or the bytes of one of fp8."""
        tensor = read_rows(self.records[name], start, stop)
        return np.asarray(tensor.view(torch.uint8) if tensor.is_floating_point() else tensor)

    def whole(self, name: str) -> npt.NDArray[Any]:
        """Return a whole tensor of integers."""
        return self.rows(name, 0, self.records[name].shape[0])

    def floats(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        """Return rows of a float tensor as float32; raises ExportError for NaN and infinity."""
        record = self.records[name]
        end = (record.shape[0] if record.shape else 1) if stop is None else stop
        values: Floats = read_rows(record, start, end).float().numpy()
        if not np.isfinite(values).all():
            raise ExportError(
                f"tensor {name} of {self.folder} holds NaN or infinity; the checkpoint is damaged, "
                "download or save it again"
            )
        return values

    def scalar(self, name: str) -> float:
        """Return a scale of one element; raises ExportError unless it is positive."""
        value = float(self.floats(name).reshape(()))
        if value <= 0:
            raise ExportError(f"{self.folder}: {name} is {value}; a scale must be above 0")
        return value


def unpack_nibbles(packed: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Split integers into 4-bit codes 0..15 along the last axis, the lowest bits first."""
    octets = np.ascontiguousarray(packed).view(np.uint8)
    codes = np.empty((*octets.shape, 2), np.uint8)
    np.bitwise_and(octets, 0x0F, out=codes[..., 0])
    np.right_shift(octets, 4, out=codes[..., 1])
    return codes.reshape(*octets.shape[:-1], 2 * octets.shape[-1])


def block_size_of(group_size: int, widths: Sequence[int], where: str) -> int:
    """Return the block that expresses groups of `group_size` inputs; -1 is a group a whole row.

    The scale of a row is repeated for each of its blocks. Raises ExportError, naming `where`, for
    groups that are no supported block, and rows that none divides.
    """
    sizes = ", ".join(map(str, BLOCK_SIZES))
    if group_size == -1:
        fitting = [size for size in BLOCK_SIZES if not any(width % size for width in widths)]
        if not fitting:
            raise ExportError(f"{where} is -1, but no block size ({sizes}) divides all of {widths}")
        return max(fitting)
    if group_size not in BLOCK_SIZES:
        raise ExportError(f"{where} is {group_size!r}; supported: -1, {sizes}")
    return group_size


def group_count(tensors: PackedTensors, name: str, inputs: int, group_size: int) -> int:
    """Return how many groups the inputs of a linear make; -1 is one."""
    if group_size == -1:
        return 1
    if inputs % group_size:
        raise ExportError(
            f"{tensors.folder}: {name} has {inputs} inputs, which groups of {group_size} do not "
            "divide"
        )
    return inputs // group_size


def subtract_zeros(codes: npt.NDArray[np.int8], zeros: npt.NDArray[np.int8]) -> None:
    """Subtract zero points [N, groups] from codes [N, K] in place; groups are in order."""
    outputs, inputs = codes.shape
    groups = codes.reshape(outputs, zeros.shape[1], inputs // zeros.shape[1])
    groups -= zeros[:, :, None]


def blocks_linear(
    codes: npt.NDArray[np.int8], scales: Floats, block_size: int, pre_scale: Floats | None = None
) -> StoredLinear:
    """Make the int4 record of codes [N, K] and scales [N, groups], a group being whole blocks.

    A scale of 0 stands for a group of zeros, whatever its codes: it becomes codes 0 of scale 1,
    since runtimes refuse a scale of 0.
    """
    empty = scales == 0
    if empty.any():
        scales = np.where(empty, np.float32(1), scales)
        codes = np.where(np.repeat(empty, codes.shape[1] // scales.shape[1], 1), 0, codes)
    scales = np.repeat(scales, codes.shape[1] // block_size // scales.shape[1], 1)
    return StoredLinear(
        "int4_awq", codes.astype(np.int8, copy=False), scales, block_size, pre_scale
    )


def float8(octets: npt.NDArray[np.uint8], name: str, folder: Path) -> npt.NDArray[Any]:
    """View bytes as float8_e4m3fn; raises ExportError for its NaN, 0x7f and 0xff."""
    if ((octets & 0x7F) == 0x7F).any():
        raise ExportError(f"tensor {name} of {folder} holds NaN; the checkpoint is damaged")
    return octets.view(ml_dtypes.float8_e4m3fn)


def require_once(tensors: PackedTensors, name: str) -> None:
    """Raise ExportError where a linear is stored both as codes and as float."""
    if name in tensors:
        raise ExportError(
            f"{tensors.folder}: {name} is stored twice, as float and as "
            f"{name.removesuffix('.weight')}.qweight"
        )


def require_no_bias(tensors: PackedTensors, module: str, outputs: int) -> None:
    """Accept the zeros that some versions of the tools write as a bias, and nothing else."""
    name = f"{module}.bias"
    if name not in tensors:
        return
    tensors.claim(name, [(outputs,)], FLOAT_NAMES)
    if tensors.floats(name).any():
        raise ExportError(f"{tensors.folder}: {name} is not zero; Llama 3 has no biases")


def whole_number(settings: Mapping[str, Any], key: str, where: str) -> int:
    """Return a setting that must be a whole number."""
    value = settings.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ExportError(f"{where}: {key} is {value!r}; a whole number is needed")
    return value
