"""Write a Llama checkpoint with random weights: python -m examples.random_llama --size 1b --out M.

The checkpoint has the real dimensions of a published Llama 3 model and the tokenizer of the
tiny model, so it measures speed and memory without any download.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import click
import torch
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

TINY = Path(__file__).parent / "tiny_llama" / "model"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
DEVIATION = 0.02
# Numbers are drawn once, this many; a weight is pieces of them from random places, half of them
# negated. The memory stays at 200 MB, and a large model takes as long as its bytes take to write.
POOL = 1 << 24
PIECE = 1 << 20

DTYPES: dict[str, tuple[torch.dtype, str]] = {
    "bfloat16": (torch.bfloat16, "BF16"),
    "float16": (torch.float16, "F16"),
    "float32": (torch.float32, "F32"),
}


@dataclass(frozen=True, slots=True)
class Size:
    """Hold the dimensions in which the Llama 3 models differ, and the published files' number."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    intermediate: int
    vocab: int
    tied: bool
    rope_factor: float
    shards: int
    context: int = 131072


SIZES: dict[str, Size] = {
    "tiny": Size(128, 2, 4, 1, 32, 256, 2048, True, 32.0, 1, context=512),
    "1b": Size(2048, 16, 32, 8, 64, 8192, 128256, True, 32.0, 1),
    "3b": Size(3072, 28, 24, 8, 128, 8192, 128256, True, 32.0, 2),
    "8b": Size(4096, 32, 32, 8, 128, 14336, 128256, False, 8.0, 4),
    "70b": Size(8192, 80, 64, 8, 128, 28672, 128256, False, 8.0, 30),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Hold the name and shape of one weight."""

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Count the elements."""
        return self.shape[0] * (self.shape[1] if len(self.shape) > 1 else 1)


def tensors(size: Size) -> list[Tensor]:
    """List every weight of a model, in the order of its layers."""
    hidden, inner = size.hidden, size.intermediate
    queries, values = size.heads * size.head, size.kv_heads * size.head
    made = [Tensor("model.embed_tokens.weight", (size.vocab, hidden))]
    for layer in range(size.layers):
        prefix = f"model.layers.{layer}."
        made += [
            Tensor(prefix + "input_layernorm.weight", (hidden,)),
            Tensor(prefix + "self_attn.q_proj.weight", (queries, hidden)),
            Tensor(prefix + "self_attn.k_proj.weight", (values, hidden)),
            Tensor(prefix + "self_attn.v_proj.weight", (values, hidden)),
            Tensor(prefix + "self_attn.o_proj.weight", (hidden, queries)),
            Tensor(prefix + "post_attention_layernorm.weight", (hidden,)),
            Tensor(prefix + "mlp.gate_proj.weight", (inner, hidden)),
            Tensor(prefix + "mlp.up_proj.weight", (inner, hidden)),
            Tensor(prefix + "mlp.down_proj.weight", (hidden, inner)),
        ]
    made.append(Tensor("model.norm.weight", (hidden,)))
    if not size.tied:
        made.append(Tensor("lm_head.weight", (size.vocab, hidden)))
    return made


def config(size: Size, dtype: str) -> dict[str, Any]:
    """Return config.json; the special tokens are those of the tiny model's tokenizer."""
    tiny = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    return {
        **tiny,
        "head_dim": size.head,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "max_position_embeddings": size.context,
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.kv_heads,
        "rope_scaling": {
            "factor": size.rope_factor,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": size.tied,
        "torch_dtype": dtype,
        "vocab_size": size.vocab,
    }


def split(weights: list[Tensor], shards: int) -> list[list[Tensor]]:
    """Divide the weights into consecutive shards of about equal size, none of them empty."""
    total, parts, done = sum(weight.elements for weight in weights), [[]], 0  # type: ignore[var-annotated]
    for index, weight in enumerate(weights):
        left = len(weights) - index
        wanted = shards - len(parts)
        if parts[-1] and wanted and (done >= total * len(parts) / shards or left <= wanted):
            parts.append([])
        parts[-1].append(weight)
        done += weight.elements
    return parts


def header(weights: list[Tensor], dtype: str) -> bytes:
    """Return the start of a safetensors file: the length of a JSON table, then the table."""
    torch_dtype, code = DTYPES[dtype]
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for weight in weights:
        end = offset + weight.elements * torch_dtype.itemsize
        table[weight.name] = {
            "dtype": code,
            "shape": list(weight.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    # Spaces up to a multiple of 8 keep the tensors aligned.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def draw(dtype: torch.dtype, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the pool of normal numbers; returns it and its negation."""
    # float32 is drawn faster than bfloat16 and then rounded.
    drawn = torch.empty(POOL).normal_(0.0, DEVIATION, generator=generator).to(dtype)
    return drawn, -drawn


def pieces(
    weight: Tensor, pools: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Yield the values of a weight in flat pieces: ones for a norm, else numbers of the pool."""
    for start in range(0, weight.elements, PIECE):
        count = min(PIECE, weight.elements - start)
        if len(weight.shape) == 1:
            yield torch.ones(count, dtype=pools[0].dtype)
        else:
            drawn = torch.randint(2 * (POOL - PIECE), (1,), generator=generator)
            place, sign = divmod(int(drawn), 2)
            yield pools[sign][place : place + count]


def write(file: BinaryIO, weights: list[Tensor], dtype: str,
          pools: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator,
          progress: Progress) -> None:  # fmt: skip
    """Write one safetensors file piece by piece."""
    file.write(header(weights, dtype))
    task = progress.task_ids[0]
    for weight in weights:
        for piece in pieces(weight, pools, generator):
            file.write(piece.view(torch.uint8).numpy().data)
            progress.advance(task, piece.nbytes)


def check(out: Path, needed: int) -> None:
    """Refuse an --out that is in use or on a disk with less than `needed` bytes free."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise click.UsageError(f"--out is {out}, which exists and is not empty: name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise click.ClickException(
            f"--out is {out} with {free:,} bytes free, but the checkpoint takes {needed:,} bytes:"
            " free some space or name a folder on another disk"
        )


def save(folder: Path, size: Size, dtype: str, shards: int, seed: int, console: Console) -> None:
    """Write the weights and every other file of a checkpoint into a folder."""
    weights = tensors(size)
    bytes_total = sum(weight.elements for weight in weights) * DTYPES[dtype][0].itemsize
    parts = split(weights, shards)
    names = ["model.safetensors"] if len(parts) == 1 else [
        f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        for number in range(1, len(parts) + 1)
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    pools = draw(DTYPES[dtype][0], generator)
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        progress.add_task("Writing weights", total=bytes_total)
        for name, part in zip(names, parts, strict=True):
            with (folder / name).open("wb") as file:
                write(file, part, dtype, pools, generator, progress)
    contents = {"config.json": config(size, dtype)}
    if len(parts) > 1:
        weight_map = {each.name: name for name, part in zip(names, parts, strict=True)
                      for each in part}  # fmt: skip
        contents["model.safetensors.index.json"] = {
            "metadata": {"total_size": bytes_total},
            "weight_map": weight_map,
        }
    for file_name, content in contents.items():
        (folder / file_name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for file_name in (*TOKENIZER_FILES, "generation_config.json"):
        shutil.copyfile(TINY / file_name, folder / file_name)


@click.command()
@click.option("--size", type=click.Choice(list(SIZES)), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="bfloat16", show_default=True)
@click.option("--shards", type=click.IntRange(1, 100), show_default="as published")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(size: str, out: Path, seed: int, dtype: str, shards: int | None, as_json: bool) -> None:
    """Write a Llama checkpoint with random weights."""
    shards = shards or SIZES[size].shards
    weights = tensors(SIZES[size])
    if shards > len(weights):
        raise click.UsageError(
            f"--shards is {shards}, but size {size} has {len(weights)} tensors: use at most that"
        )
    parameters = sum(weight.elements for weight in weights)
    needed = parameters * DTYPES[dtype][0].itemsize
    # The other files of a checkpoint take well under 16 MB.
    check(out, needed + (16 << 20))
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        save(staging, SIZES[size], dtype, shards, seed, Console(stderr=True))
        staging.chmod(0o755)
        if out.exists():
            out.rmdir()
        staging.rename(out)
    finally:
        if staging.exists():
            shutil.rmtree(staging)
    if as_json:
        result = {"out": str(out), "size": size, "dtype": dtype, "seed": seed, "shards": shards,
                  "parameters": parameters, "bytes": needed}  # fmt: skip
        click.echo(json.dumps(result))
    else:
        click.echo(f"Wrote {out}: {parameters:,} parameters, {needed:,} bytes of weights.")


if __name__ == "__main__":
    main()
