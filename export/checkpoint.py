"""A Hugging Face checkpoint folder: its tensors, checked against the configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from edgellama.export.error import ExportError
from edgellama.export.shard import TensorRecord, read_header, read_rows
from edgellama.profiles.model import ModelConfig, read_model_config

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
FLOAT_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
__all__ = ["Checkpoint", "TensorRecord", "expected_tensors", "open_checkpoint", "require_finite"]


def expected_tensors(model: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every weight that a Llama of this configuration has."""
    hidden, middle = model.hidden_size, model.intermediate_size
    yield "model.embed_tokens.weight", (model.vocab_size, hidden)
    for layer in range(model.num_layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.self_attn.q_proj.weight", (model.query_size, hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (model.kv_size, hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (model.kv_size, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, model.query_size)
        yield f"{prefix}.mlp.gate_proj.weight", (middle, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (middle, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, middle)
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not model.tie_word_embeddings:
        yield "lm_head.weight", (model.vocab_size, hidden)


def _may_be_left_over(name: str, model: ModelConfig) -> bool:
    """Whether transformers too ignores this tensor: old rotary buffers, a tied head's copy."""
    return name.endswith("rotary_emb.inv_freq") or (
        model.tie_word_embeddings and name == "lm_head.weight"
    )


def _shards(folder: Path) -> list[Path]:
    """Return the safetensors files, from the index where there is one."""
    index = folder / INDEX_NAME
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(weight_map.values()))
        except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
            raise ExportError(f"{index}: not a safetensors index ({error!r})") from error
        for name in names:
            if not (folder / name).is_file():
                raise ExportError(
                    f"{folder}: shard {name} is missing, but {INDEX_NAME} lists it; "
                    "download the checkpoint again"
                )
        return [folder / name for name in names]
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    pickles = sorted(path.name for path in folder.glob("*.bin")) + sorted(
        path.name for path in folder.glob("*.pth")
    )
    if pickles:
        raise ExportError(
            f"{folder}: only pickle weights ({pickles[0]}); they can run code when loaded, "
            "convert the checkpoint to safetensors"
        )
    raise ExportError(f"{folder}: no {SINGLE_NAME} and no {INDEX_NAME}")


def _records(shards: list[Path]) -> dict[str, TensorRecord]:
    records: dict[str, TensorRecord] = {}
    for file in shards:
        for name, record in read_header(file).items():
            if name in records:
                raise ExportError(
                    f"tensor {name} is in {records[name].file.name} and in {file.name}; "
                    "it must be in one shard only"
                )
            records[name] = record
    return records


def require_finite(tensor: torch.Tensor, name: str, origin: Path) -> torch.Tensor:
    """Return a floating tensor; raises ExportError where it holds NaN or infinity.

    The extremes carry a NaN along, and finding them needs no second tensor.
    """
    if tensor.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all()):
        raise ExportError(
            f"tensor {name} of {origin} holds NaN or infinity; the checkpoint is damaged, "
            "download or save it again"
        )
    return tensor


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every tensor is present with the right shape; weights stay on disk."""

    folder: Path
    model: ModelConfig
    tensors: dict[str, TensorRecord]

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor as stored; raises ExportError where it holds NaN or infinity."""
        shape = self.tensors[name].shape
        return self.read_rows(name, 0, shape[0] if shape else 1)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) of one tensor as stored; only their bytes are read.

        Any number of threads may read at once. Raises ExportError where they hold NaN or infinity.
        """
        return require_finite(read_rows(self.tensors[name], start, stop), name, self.folder)

    def fingerprint(self) -> str:
        """Return a digest that changes with the configuration files or any weight file.

        Weight files count by name, size and modification time: reading 140 GB to skip a build
        would cost more than the build.
        """
        digest = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            if path.suffix in (".json", ".jinja") and path.is_file():
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
        for path in sorted({record.file for record in self.tensors.values()}):
            status = path.stat()
            digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
        return digest.hexdigest()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Check a checkpoint folder whole, reading headers only.

    Raises UnsupportedModelError for another kind of model and ExportError for missing shards,
    damaged files, and missing, duplicate, unexpected or wrongly shaped tensors.
    """
    if not folder.is_dir():
        raise ExportError(f"model folder {folder} does not exist")
    model = read_model_config(folder)
    records = _records(_shards(folder))
    expected = dict(expected_tensors(model))
    for name, shape in expected.items():
        record = records.get(name)
        if record is None:
            raise ExportError(f"{folder}: tensor {name} is missing")
        if record.shape != shape:
            raise ExportError(
                f"{folder}: tensor {name} has shape {list(record.shape)}; config.json makes it "
                f"{list(shape)}"
            )
        if record.dtype not in FLOAT_DTYPES:
            raise ExportError(
                f"{folder}: tensor {name} has dtype {record.dtype}; supported: "
                f"{', '.join(FLOAT_DTYPES)}"
            )
    for name in records:
        if name not in expected and not _may_be_left_over(name, model):
            raise ExportError(f"{folder}: tensor {name} does not belong to this configuration")
    return Checkpoint(folder, model, {name: records[name] for name in expected})
