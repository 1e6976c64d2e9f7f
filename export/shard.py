"""One safetensors file: its header parsed once, its rows read without mapping the file.

Format: https://github.com/huggingface/safetensors#format. Eight bytes of header length, little
endian; a JSON header of name to dtype, shape and byte range; the data, without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgellama.export.error import ExportError

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class TensorRecord:
    """Where one tensor lies: its file, safetensors dtype name, shape, and first byte."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def read_header(file: Path) -> dict[str, TensorRecord]:
    """Return the tensors of a file by name, after checking that their bytes fill it exactly.

    Raises ExportError where the file is truncated, damaged, names a tensor twice or has a dtype
    that torch lacks.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        start = _LENGTH_BYTES + length
        if size < _LENGTH_BYTES or start > size or length > _LONGEST_HEADER:
            raise _damaged(file, f"its header ends at byte {start} of {size}")
        text = stream.read(length)
    try:
        header = json.loads(text, object_pairs_hook=lambda pairs: _unique(file, pairs))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ExportError):
            raise
        raise _damaged(file, f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _damaged(file, "its header is not an object")
    header.pop("__metadata__", None)
    ranges = {name: _range(file, name, entry) for name, entry in header.items()}
    end = 0
    for name, (begin, stop) in sorted(ranges.items(), key=lambda item: item[1]):
        if begin != end:
            raise _damaged(file, f"tensor {name} begins at data byte {begin}, not at {end}")
        end = stop
    if start + end != size:
        raise _damaged(file, f"it has {size} bytes, but its header describes {start + end}")
    return {
        name: TensorRecord(file, entry["dtype"], tuple(entry["shape"]), start + ranges[name][0])
        for name, entry in header.items()
    }


def read_rows(record: TensorRecord, start: int, stop: int) -> torch.Tensor:
    """Return rows [start, stop) of a tensor's first axis as stored; nothing else is read.

    A scalar is one row, returned as a scalar. Every call opens the file for itself, so any number
    of threads may read at once.
    """
    rows = record.shape[0] if record.shape else 1
    if not 0 <= start <= stop <= rows:
        raise ValueError(f"rows {start} to {stop} are not within the tensor's {rows} rows")
    shape = (stop - start, *record.shape[1:]) if record.shape else ()
    tensor = torch.empty(shape, dtype=DTYPES[record.dtype])
    if not tensor.numel():
        return tensor
    buffer = tensor.view(-1).view(torch.uint8).numpy().data
    with record.file.open("rb", buffering=0) as stream:
        stream.seek(record.offset + start * (record.nbytes // rows))
        filled = 0
        while filled < len(buffer):  # one read returns at most 2 GB on Linux
            count = stream.readinto(buffer[filled:])
            if not count:
                raise _damaged(record.file, f"it ends {len(buffer) - filled} bytes too early")
            filled += count
    return tensor


def _unique(file: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; JSON itself lets the last of two equal keys win."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ExportError(f"{file}: {twice} is in the header twice; download or save it again")
    return found


def _range(file: Path, name: str, entry: Any) -> tuple[int, int]:
    """Return the checked [begin, end) of one tensor within the data."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sizes = [begin, end, *shape]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, f"tensor {name} has the header {entry!r}") from error
    whole = all(type(size) is int and size >= 0 for size in sizes)  # a bool is no size
    if not whole or not isinstance(dtype, str):
        raise _damaged(file, f"tensor {name} has the header {entry!r}")
    if dtype not in DTYPES:
        raise ExportError(f"{file}: tensor {name} has dtype {dtype}; known are {', '.join(DTYPES)}")
    if math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise _damaged(file, f"tensor {name}: {dtype} {shape} is not {end - begin} bytes")
    return begin, end


def _damaged(file: Path, reason: str) -> ExportError:
    return ExportError(
        f"{file}: damaged or truncated safetensors file ({reason}); download it again"
    )
