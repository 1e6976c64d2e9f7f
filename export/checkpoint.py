"""A Hugging Face checkpoint folder: its tensors, checked against the configuration."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from edgellama.export.error import ExportError
from edgellama.export.resolve import source_name
from edgellama.export.shard import TensorRecord, read_rows
from edgellama.export.stored import CheckpointQuantization, StoredLinear
from edgellama.export.stored_tensors import stored_tensors
from edgellama.profiles.model import ModelConfig, read_model_config

TABLE = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FLOAT_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_COMPARED_ROWS = 8192
__all__ = ["Checkpoint", "TensorRecord", "expected_tensors", "open_checkpoint", "require_finite"]


def expected_tensors(model: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every weight that a Llama of this configuration has."""
    hidden, middle = model.hidden_size, model.intermediate_size
    yield TABLE, (model.vocab_size, hidden)
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
        yield HEAD, (model.vocab_size, hidden)


def _may_be_left_over(name: str, model: ModelConfig) -> bool:
    """Whether transformers too ignores this tensor: old rotary buffers, a tied head's copy."""
    return name.endswith("rotary_emb.inv_freq") or (model.tie_word_embeddings and name == HEAD)


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
    """A checkpoint whose every tensor is present with the right shape; weights stay on disk.

    A quantised one (see `quantized_checkpoint`) names how, its weights that `stored` returns, and
    those that only `read` does. `adapter` is the folder of what is merged into it, if anything.
    """

    folder: Path
    model: ModelConfig
    tensors: dict[str, TensorRecord]
    quantization: CheckpointQuantization | None = field(default=None, kw_only=True)
    stored_linears: tuple[str, ...] = field(default=(), kw_only=True)
    inexact: tuple[str, ...] = field(default=(), kw_only=True)
    adapter: Path | None = field(default=None, kw_only=True)

    @property
    def name(self) -> str:
        """Return what the model is called in an engine, its adapter behind a `+`."""
        adapter = "" if self.adapter is None else f"+{source_name(self.adapter)}"
        return f"{source_name(self.folder)}{adapter}"

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor as stored; raises ExportError where it holds NaN or infinity."""
        shape = self.tensors[name].shape
        return self.read_rows(name, 0, shape[0] if shape else 1)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) of one tensor as stored; only their bytes are read.

        Any number of threads may read at once. Raises ExportError where they hold NaN or infinity.
        """
        return require_finite(read_rows(self.tensors[name], start, stop), name, self.folder)

    def stored(self, name: str) -> StoredLinear:
        """Return the codes of a weight of `stored_linears`; raises ExportError for another."""
        raise ExportError(f"{self.folder}: {name} is not stored as symmetric codes; read it")

    def _weight_files(self) -> set[Path]:
        return {record.file for record in self.tensors.values()}

    def fingerprint(self) -> str:
        """Return a digest that changes with the configuration files or any weight file.

        Weight files count by name, size and modification time: reading 140 GB to skip a build
        would cost more than the build.
        """
        digest = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            if path.suffix in (".json", ".jinja") and path.is_file():
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
        for path in sorted(self._weight_files()):
            status = path.stat()
            digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
        return digest.hexdigest()


def _require_tied(checkpoint: Checkpoint, head: TensorRecord) -> None:
    """Check that a tied head stored all the same is the table; transformers unties it if not."""
    table = checkpoint.tensors[TABLE]
    same = (head.dtype, head.shape) == (table.dtype, table.shape)
    rows = table.shape[0]
    for start in range(0, rows if same else 0, _COMPARED_ROWS):
        stop = min(start + _COMPARED_ROWS, rows)
        same = same and torch.equal(read_rows(head, start, stop), read_rows(table, start, stop))
    if not same:
        raise ExportError(
            f"{checkpoint.folder}: tie_word_embeddings is true, but {HEAD} differs from {TABLE}; "
            f"set it to false in config.json to use both, or remove {HEAD}"
        )


def open_checkpoint(folder: Path, exact: bool = False) -> Checkpoint:
    """Check a checkpoint folder whole, reading headers only (and a tied head's copy, if stored).

    A quantised checkpoint is a QuantizedCheckpoint: it reads as the float32 that it stands for.
    `exact` refuses one with linears that would have to be rounded again.

    Raises UnsupportedModelError for another kind of model and ExportError for missing shards,
    damaged files, and missing, duplicate, unexpected or wrongly shaped tensors.
    """
    if not folder.is_dir():
        raise ExportError(f"model folder {folder} does not exist")
    model = read_model_config(folder)
    if (folder / "adapter_config.json").is_file():
        raise ExportError(
            f"{folder}: both a model and an adapter (adapter_config.json); move the adapter's "
            "files to their own folder and give that as the adapter, or remove them"
        )
    # It extends the class above, so this module cannot import it at its head.
    from edgellama.export.quantized_checkpoint import open_quantized, read_declaration

    records = stored_tensors(folder)
    declaration = read_declaration(folder)
    if declaration is None:
        checkpoint = _open_float(folder, model, records)
    else:
        needed = {n: r for n, r in records.items() if not _may_be_left_over(n, model)}
        checkpoint = open_quantized(folder, model, needed, declaration, exact)
    if model.tie_word_embeddings and HEAD in records:
        _require_tied(checkpoint, records[HEAD])
    return checkpoint


def _open_float(folder: Path, model: ModelConfig, records: dict[str, TensorRecord]) -> Checkpoint:
    """Check that exactly the expected tensors are there, as floats."""
    expected = dict(expected_tensors(model))
    for name, shape in expected.items():
        record = records.get(name)
        if record is None:
            raise ExportError(
                f"{folder}: tensor {name} is missing, which config.json asks for; the checkpoint "
                "is incomplete, download it again"
            )
        if record.shape != shape:
            raise ExportError(
                f"{folder}: tensor {name} has shape {list(record.shape)}; config.json makes it "
                f"{list(shape)}, correct the one that is wrong"
            )
        if record.dtype not in FLOAT_DTYPES:
            raise ExportError(
                f"{folder}: tensor {name} has dtype {record.dtype}; supported: "
                f"{', '.join(FLOAT_DTYPES)}"
            )
    for name in records:
        if name not in expected and not _may_be_left_over(name, model):
            raise ExportError(
                f"{folder}: tensor {name} does not belong to this configuration; it would be "
                "ignored, remove it or correct config.json"
            )
    return Checkpoint(folder, model, {name: records[name] for name in expected})
