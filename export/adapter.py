"""A PEFT LoRA adapter merged into its base model tensor by tensor, as the tensors are read.

The arithmetic is that of PEFT's `merge_and_unload` on a CPU, bit by bit: PEFT widens A and B to
float32 when it loads them, so a linear becomes W + (B @ A) * scaling, computed in float32 and
rounded once to the dtype of W. For an embedding the transposed product is rounded to that dtype
before the sum, too. (`merge` and `get_delta_weight` in peft/tuners/lora/layer.py, 0.21.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from edgellama.export.adapter_config import ADAPTER_CONFIG, AdapterConfig, read_adapter_config
from edgellama.export.checkpoint import (
    FLOAT_DTYPES,
    HEAD,
    TABLE,
    Checkpoint,
    expected_tensors,
    require_finite,
)
from edgellama.export.error import ExportError
from edgellama.export.shard import DTYPES, TensorRecord, read_header, read_rows

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Rows of the product are computed in blocks that begin and end here, or at the end of the matrix:
# for fewer than 16 rows BLAS takes another kernel, whose sums round differently.
_GRID = 64
_BLOCK_ROWS = 4096  # rows of the product in memory at once
_COMPARED_ROWS = 8192


@dataclass(frozen=True)
class LowRank:
    """The two factors of one weight's change, and their scaling.

    A linear has A [rank, inputs] and B [outputs, rank]; an embedding of V tokens and H features
    has A [rank, V] and B [H, rank], and its weight [V, H] takes the transposed product.
    """

    module: str
    a: TensorRecord
    b: TensorRecord
    scaling: float
    embedding: bool

    def add(self, rows: torch.Tensor, start: int, folder: Path) -> None:
        """Add the change to rows [start, ...) of the weight, in place.

        Raises ExportError where the factors hold NaN or infinity.
        """
        a, b = (
            require_finite(
                read_rows(record, 0, record.shape[0]), f"{self.module}.lora_{side}", folder
            ).float()
            for record, side in ((self.a, "A"), (self.b, "B"))
        )
        total = a.shape[1] if self.embedding else b.shape[0]
        for done in range(0, len(rows), _BLOCK_ROWS):
            block = rows[done : done + _BLOCK_ROWS]
            low = start + done
            high = low + len(block)
            first = min(low // _GRID * _GRID, max(0, total - _GRID))
            last = -(-high // _GRID) * _GRID
            if total - last < _GRID:
                last = total
            if self.embedding:
                product = (b @ a[:, first:last]).mul_(self.scaling).T
                product = product[low - first : high - first].to(rows.dtype)
            else:
                product = (b[first:last] @ a).mul_(self.scaling)[low - first : high - first]
            block += product


@dataclass(frozen=True, kw_only=True)
class AdaptedCheckpoint(Checkpoint):
    """A checkpoint that reads as `base` with the adapter of the folder `adapter` merged into it.

    `low_rank` has the weights that are changed, `replaced` those that the adapter brings whole.
    """

    base: Checkpoint
    adapter: Path
    low_rank: Mapping[str, LowRank]
    replaced: Mapping[str, TensorRecord]

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) of one merged tensor, in the dtype of the base's.

        Any number of threads may read at once. Raises ExportError where the base, the adapter or
        the merged rows hold NaN or infinity.
        """
        record = self.replaced.get(name)
        if record is None:
            source = name if name in self.base.tensors else TABLE  # a head that was tied
            rows = self.base.read_rows(source, start, stop)
        else:
            rows = require_finite(read_rows(record, start, stop), name, self.adapter)
            rows = rows.to(DTYPES[self.tensors[name].dtype])
        change = self.low_rank.get(name)
        if change is not None:
            change.add(rows, start, self.adapter)
        elif record is None:
            return rows
        if rows.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(rows))).all()):
            raise ExportError(
                f"tensor {name} exceeds the range of {rows.dtype} once {self.adapter} is merged; "
                "give the base model in bfloat16 or float32"
            )
        return rows

    def fingerprint(self) -> str:
        """Return a digest of the base, and of the adapter by the same rule."""
        digest = hashlib.sha256(self.base.fingerprint().encode())
        for path in sorted(self.adapter.iterdir()):
            if path.suffix in (".json", ".jinja") and path.is_file():
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
        status = (self.adapter / ADAPTER_WEIGHTS).stat()
        digest.update(f"{ADAPTER_WEIGHTS}\0{status.st_size}\0{status.st_mtime_ns}".encode())
        return digest.hexdigest()


def open_adapter(folder: Path, base: Checkpoint) -> AdaptedCheckpoint:
    """Check an adapter folder as PEFT and TRL write it, reading headers only.

    An adapter that brings its own embedding or head to a tied model unties it, as PEFT's merge
    does: `model.tie_word_embeddings` of the result is then False. Raises ExportError for pickle
    weights, options other than plain LoRA, and tensors that are missing, have the wrong shape or
    match no weight of the base.
    """
    if not folder.is_dir():
        raise ExportError(f"adapter folder {folder} does not exist")
    if base.quantization is not None:
        raise ExportError(
            f"{base.folder} is quantised; an adapter is merged into the unquantised base model"
        )
    config = read_adapter_config(folder)
    records = _adapter_tensors(folder)
    low_rank, replaced = _match(folder, config, records, base)
    if not low_rank and not replaced:
        raise ExportError(
            f"{folder}: target_modules {config.target_modules!r} name no linear of the base model"
        )
    model, tensors = base.model, dict(base.tensors)
    if model.tie_word_embeddings:
        for name in (TABLE, HEAD):
            if name in low_rank:
                raise ExportError(
                    f"{folder}: target_modules has {_module(name)}, but the base model's head is "
                    "its embedding (tie_word_embeddings): a merge would change both where one was "
                    "trained; untie the base model (save it with tie_word_embeddings false) and "
                    "merge with PEFT"
                )
        saved = [name for name in (TABLE, HEAD) if name in replaced]
        if saved and (config.tied or not any(config.saves(_module(name)) for name in saved)):
            _keep_tied(folder, replaced)
        elif saved:
            model = replace(model, tie_word_embeddings=False)
            tensors[HEAD] = tensors[TABLE]
    return AdaptedCheckpoint(
        folder=base.folder,
        model=model,
        tensors=tensors,
        base=base,
        adapter=folder,
        low_rank=low_rank,
        replaced=replaced,
    )


def _adapter_tensors(folder: Path) -> dict[str, TensorRecord]:
    """Return the adapter's tensors by their names in PEFT, without its prefix."""
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        for pickled in sorted([*folder.glob("*.bin"), *folder.glob("*.pt")]):
            raise ExportError(
                f"{folder}: only pickle weights ({pickled.name}); they can run code when loaded, "
                "save the adapter with PEFT's save_pretrained (safetensors)"
            )
        raise ExportError(f"{folder}: no {ADAPTER_WEIGHTS} beside {ADAPTER_CONFIG}")
    records = {}
    for name, record in read_header(path).items():
        if not name.startswith(_PREFIX):
            raise ExportError(f"{path}: tensor {name} does not begin with {_PREFIX}")
        if record.dtype not in FLOAT_DTYPES:
            raise ExportError(
                f"{path}: tensor {name} has dtype {record.dtype}; supported: "
                f"{', '.join(FLOAT_DTYPES)}"
            )
        records[name.removeprefix(_PREFIX)] = record
    return records


def _match(
    folder: Path, config: AdapterConfig, records: Mapping[str, TensorRecord], base: Checkpoint
) -> tuple[dict[str, LowRank], dict[str, TensorRecord]]:
    """Give every tensor of the adapter its weight; returns the changed and the replaced ones."""
    left = dict(records)

    def take(name: str, shape: tuple[int, ...]) -> TensorRecord:
        record = left.pop(name, None)
        if record is None:
            raise ExportError(
                f"{folder}: tensor {name} is missing, which {ADAPTER_CONFIG} asks for"
            )
        _require_shape(folder, name, record, shape, base)
        return record

    low_rank: dict[str, LowRank] = {}
    replaced: dict[str, TensorRecord] = {}
    for name, shape in _weights(base):
        module = _module(name)
        targeted = len(shape) == 2 and config.targets(module)
        if targeted:
            rank, scaling = config.rank_of(module), config.scaling_of(module)
            rows, columns = shape
            if name == TABLE:
                a = take(f"{module}.lora_embedding_A", (rank, rows))
                b = take(f"{module}.lora_embedding_B", (columns, rank))
            else:
                a = take(f"{module}.lora_A.weight", (rank, columns))
                b = take(f"{module}.lora_B.weight", (rows, rank))
            low_rank[name] = LowRank(module, a, b, scaling, embedding=name == TABLE)
        # PEFT stores a table beside its adapter, and tables that it takes for resized.
        stored = f"{module}.base_layer.weight" if targeted else name
        if config.saves(module) or (name in (TABLE, HEAD) and stored in left):
            replaced[name] = take(stored, shape)
    for name in left:
        raise ExportError(
            f"{folder}: tensor {name} belongs to no module that {ADAPTER_CONFIG} names in this "
            f"base model ({base.model.num_layers} layers); it would be ignored"
        )
    return low_rank, replaced


def _weights(base: Checkpoint) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the weights of the base, its head too where it is tied."""
    yield from expected_tensors(base.model)
    if base.model.tie_word_embeddings:
        yield HEAD, base.tensors[TABLE].shape


def _require_shape(
    folder: Path, name: str, record: TensorRecord, shape: tuple[int, ...], base: Checkpoint
) -> None:
    if record.shape == shape:
        return
    vocabulary = base.model.vocab_size
    sizes = zip(record.shape, shape, strict=False)
    if len(record.shape) == len(shape) and all(
        found == wanted or wanted == vocabulary for found, wanted in sizes
    ):
        grown = next(f for f, w in zip(record.shape, shape, strict=True) if f != w)
        raise ExportError(
            f"{folder}: tensor {name} is for a vocabulary of {grown} tokens, the base model's has "
            f"{vocabulary}: the adapter was trained after resizing it; merge with PEFT "
            "(resize_token_embeddings, merge_and_unload) and give the result as the model"
        )
    raise ExportError(
        f"{folder}: tensor {name} has shape {list(record.shape)}; {ADAPTER_CONFIG} and the base "
        f"model {base.folder} make it {list(shape)}, is this the adapter's base model?"
    )


def _keep_tied(folder: Path, replaced: dict[str, TensorRecord]) -> None:
    """Replace a tied table by the adapter's one, which it may hold twice."""
    head = replaced.pop(HEAD, None)
    table = replaced.setdefault(TABLE, head) if head is not None else replaced[TABLE]
    if head is None or head is table:
        return
    rows = table.shape[0]
    for start in range(0, rows, _COMPARED_ROWS):
        stop = min(start + _COMPARED_ROWS, rows)
        if not torch.equal(read_rows(head, start, stop), read_rows(table, start, stop)):
            raise ExportError(
                f"{folder}: the base model's head is its embedding (tie_word_embeddings), but the "
                f"adapter's {HEAD} and {TABLE} differ; merge with PEFT and give the result as the "
                "model"
            )


def _module(name: str) -> str:
    return name.removesuffix(".weight")
