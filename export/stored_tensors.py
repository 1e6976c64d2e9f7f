"""The safetensors files of a checkpoint folder: one, or shards with their index."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from edgellama.export.error import ExportError
from edgellama.export.shard import TensorRecord, read_header

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_OTHER_FORMATS = {
    "*.bin": "pickle weights",
    "*.pth": "pickle weights",
    "*.pt": "pickle weights",
    "*.ckpt": "pickle weights",
    "*.gguf": "GGUF weights",
}


def stored_tensors(folder: Path) -> dict[str, TensorRecord]:
    """Return every tensor of a folder's safetensors files, single or sharded, whatever its dtype.

    Raises ExportError for missing, damaged or contradicting files and for other formats.
    """
    index, single = folder / INDEX_NAME, folder / SINGLE_NAME
    if index.is_file():
        weight_map = _weight_map(index)
        names = sorted(set(weight_map.values()))
        if single.is_file() and SINGLE_NAME not in names:
            raise ExportError(
                f"{folder}: both {SINGLE_NAME} and {INDEX_NAME}, which names other files; remove "
                "the one that is not the model"
            )
        for name in names:
            if not (folder / name).is_file():
                raise ExportError(
                    f"{folder}: shard {name} is missing, but {INDEX_NAME} lists it; "
                    "download the checkpoint again"
                )
        records = _records([folder / name for name in names])
        _require_listed(index, records, weight_map)
        return records
    if single.is_file():
        return _records([single])
    for pattern, kind in _OTHER_FORMATS.items():
        for path in sorted(folder.glob(pattern)):
            raise ExportError(
                f"{folder}: only {kind} ({path.name}); they are not read (a pickle can run code "
                "when loaded), convert the checkpoint to safetensors"
            )
    raise ExportError(
        f"{folder}: no {SINGLE_NAME} and no {INDEX_NAME}; give a folder with safetensors weights"
    )


def _weight_map(index: Path) -> dict[str, str]:
    """Return tensor name to file name; files must lie beside the index."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = set(weight_map.values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ExportError(f"{index}: not a safetensors index ({error!r})") from error
    for file in files:
        if (
            not isinstance(file, str)
            or PurePosixPath(file).name != file
            or "\\" in file
            or not file.endswith(".safetensors")
        ):
            raise ExportError(
                f"{index}: weight_map names the file {file!r}; a file *.safetensors beside the "
                "index is needed"
            )
    return dict(weight_map)


def _require_listed(
    index: Path, records: dict[str, TensorRecord], weight_map: dict[str, str]
) -> None:
    """Check that every tensor of the index lies in the file that it names."""
    for name, file in weight_map.items():
        found = records.get(name)
        if found is None or found.file.name != file:
            where = "in no file" if found is None else f"in {found.file.name}"
            raise ExportError(
                f"{index}: tensor {name} should be in {file}, but it is {where}; download the "
                "checkpoint again"
            )


def _records(files: list[Path]) -> dict[str, TensorRecord]:
    records: dict[str, TensorRecord] = {}
    for file in files:
        for name, record in read_header(file).items():
            if name in records:
                raise ExportError(
                    f"tensor {name} is in {records[name].file.name} and in {file.name}; "
                    "it must be in one shard only, download or save the checkpoint again"
                )
            records[name] = record
    return records
