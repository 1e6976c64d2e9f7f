"""Train the tiny model: python -m examples.tiny_llama.train --out DIR."""

import json
import math
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM

from edgellama.examples.tiny_llama import corpus, shape, tokenizer
from edgellama.examples.tiny_llama.document import Document
from edgellama.examples.tiny_llama.packing import BATCH_TOKENS, SHORT_ROW, Batch, batches

FOLDER = Path(__file__).parent / "model"
WARMUP = 100
THREADS = 2


@dataclass(frozen=True, slots=True)
class Stage:
    """Hold one stage of training: its documents, its steps and its highest learning rate."""

    name: str
    documents: Callable[[int, int], Iterator[Document]]
    count: int
    steps: int
    peak: float


STAGES: tuple[Stage, ...] = (
    Stage("corpus", corpus.documents, 80_000, 2_200, 3e-3),
    Stage("practice", corpus.practice, 50_000, 1_800, 2e-3),
)
STEPS = sum(stage.steps for stage in STAGES)


def rate(step: int, steps: int, peak: float) -> float:
    """Return the learning rate: a straight rise, then half a cosine down to nearly 0."""
    rise = min(1.0, (step + 1) / WARMUP)
    return peak * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def build(token_ids: dict[str, int], seed: int) -> LlamaForCausalLM:
    """Make the untrained model in fp32 from a seed."""
    torch.manual_seed(seed)
    settings = {**shape.config(token_ids), "torch_dtype": "float32"}
    # transformers publishes no types for its models.
    untyped: Any = LlamaForCausalLM
    model: LlamaForCausalLM = untyped(LlamaConfig(**settings)).train()
    return model


def optimizer(model: LlamaForCausalLM) -> torch.optim.AdamW:
    """Make AdamW with weight decay on the matrices only."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    others = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def learn(model: LlamaForCausalLM, batch: Batch, adam: torch.optim.AdamW) -> float:
    """Make one step and return the loss in nats per learned token."""
    # On a CPU, fused attention is slow backwards on short rows and fast on long ones.
    short = batch.tokens.shape[1] == SHORT_ROW
    kernel = SDPBackend.MATH if short else SDPBackend.FLASH_ATTENTION
    with sdpa_kernel(kernel), torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(
            input_ids=batch.tokens, attention_mask=batch.mask, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden.flatten(0, 1)[batch.places])
    loss = torch.nn.functional.cross_entropy(logits.float(), batch.targets)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adam.step()
    adam.zero_grad()
    return loss.item()


def save(model: LlamaForCausalLM, words: Tokenizer, folder: Path, report: dict[str, Any]) -> None:
    """Write the checkpoint in bf16 with its tokenizer, its configuration and its report."""
    weights = {
        name: value.to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        # The output matrix is the embedding matrix, which is stored once.
        if name != "lm_head.weight"
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # safetensors lets nobody but the owner read its files.
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(words, folder)
    token_ids = words.get_vocab()
    for file, content in (
        ("config.json", shape.config(token_ids)),
        ("generation_config.json", shape.generation_config(token_ids)),
        ("train.json", report),
    ):
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_replaceable(folder: Path) -> None:
    """Refuse a folder that holds anything but a checkpoint."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise click.UsageError(
            f"--out is {folder}, which holds files but no checkpoint: name a new folder"
        )
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"--out is {folder}, which is a file: name a folder")


def replace(staging: Path, folder: Path) -> None:
    """Put the finished staging folder in the place of the folder."""
    if not folder.exists():
        staging.rename(folder)
        return
    old = staging.with_name(staging.name + ".old")
    folder.rename(old)
    try:
        staging.rename(folder)
    except BaseException:
        # An interrupt between the two renames must not lose the old checkpoint.
        old.rename(folder)
        raise
    shutil.rmtree(old)


def round_to_bf16(model: LlamaForCausalLM) -> None:
    """Round the fp32 weights to the values that a bf16 file can hold."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.to(torch.bfloat16))


def shares(steps: int) -> list[int]:
    """Divide a number of steps between the stages in proportion."""
    first = [steps * stage.steps // STEPS for stage in STAGES[:-1]]
    return [*first, steps - sum(first)]


def train(steps: int, seed: int, console: Console) -> tuple[LlamaForCausalLM, Tokenizer, float]:
    """Run every stage and return the model, the tokenizer and the mean of the last losses."""
    words = tokenizer.train(corpus.documents(tokenizer.DOCUMENTS, seed))
    model = build(words.get_vocab(), seed)
    losses: list[float] = []
    columns = (*Progress.get_default_columns()[:-1], TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.4f}"), console=console) as bar:
        task = bar.add_task("Training", total=steps, loss=math.nan)
        for number, (stage, count) in enumerate(zip(STAGES, shares(steps), strict=True)):
            # Each stage starts from what the checkpoint of the one before would hold.
            adam = optimizer(model)
            stream = batches(list(stage.documents(stage.count, seed)), words, seed + number)
            for step in range(count):
                for group in adam.param_groups:
                    group["lr"] = rate(step, count, stage.peak)
                losses.append(learn(model, next(stream), adam))
                mean = sum(losses[-50:]) / len(losses[-50:])
                bar.update(task, advance=1, loss=mean, description=stage.name.capitalize())
                if not console.is_terminal and len(losses) % 100 == 0:
                    console.print(f"step {len(losses)}/{steps} loss {mean:.4f}")
            round_to_bf16(model)
    return model, words, sum(losses[-50:]) / len(losses[-50:])


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--seed", type=int, default=corpus.SEED, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=STEPS, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def main(out: Path, seed: int, steps: int, as_json: bool) -> None:
    """Train the tiny model and write its checkpoint."""
    check_replaceable(out)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory would cost a fifth of the time; no step reads memory it did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    out.parent.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    # The staging folder lies beside the final one, so that the last step is a rename.
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        started = time.monotonic()
        model, words, loss = train(steps, seed, console)
        report = {
            "documents": sum(stage.count for stage in STAGES),
            "final_loss": round(loss, 5),
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "seed": seed,
            "steps": steps,
            "threads": THREADS,
            "tokens": steps * BATCH_TOKENS,
            "user_seconds": round(resource.getrusage(resource.RUSAGE_SELF).ru_utime),
            "wall_seconds": round(time.monotonic() - started),
        }
        save(model, words, staging, report)
        staging.chmod(0o755)
        replace(staging, out)
    finally:
        if staging.exists():
            shutil.rmtree(staging)
    if as_json:
        click.echo(json.dumps({**report, "out": str(out)}))
    else:
        click.echo(f"Wrote {out}: {report['parameters']:,} parameters, loss {loss:.4f}.")


if __name__ == "__main__":
    main()
