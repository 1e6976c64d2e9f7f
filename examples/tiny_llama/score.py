"""Score a model on the held-out questions: python -m examples.tiny_llama.score."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgellama.examples.tiny_llama.questions import Question, load
from edgellama.examples.tiny_llama.train import FOLDER, THREADS

# The lowest share of exact answers, in percent, that a model may be committed with.
BARS = {"fact": 95.0, "arithmetic": 80.0}
MAX_NEW_TOKENS = 64
_BATCH = 64


def _groups(prompts: Sequence[list[int]]) -> Iterator[list[int]]:
    """Group the indices of prompts of equal length, so that no padding changes an answer."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt)].append(index)
    for indices in by_length.values():
        for start in range(0, len(indices), _BATCH):
            yield indices[start : start + _BATCH]


def answers(folder: Path, questions: Sequence[Question], *, quiet: bool = False) -> list[str]:
    """Answer each question with the most likely tokens, computed in fp32."""
    words: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    prompts = [_prompt(words, question) for question in questions]
    given = [""] * len(questions)
    groups = list(_groups(prompts))
    for indices in track(groups, "Scoring", console=Console(stderr=True, quiet=quiet)):
        tokens = torch.tensor([prompts[index] for index in indices])
        with torch.inference_mode():
            made = model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                temperature=None,
                top_p=None,
                max_new_tokens=MAX_NEW_TOKENS,
                pad_token_id=words.pad_token_id,
            )
        for index, row in zip(indices, made[:, tokens.shape[1] :], strict=True):
            given[index] = words.decode(row, skip_special_tokens=True)
    return given


def _prompt(words: Any, question: Question) -> list[int]:
    messages = [{"role": each.role, "content": each.content} for each in question.messages]
    text: str = words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids: list[int] = words(text, add_special_tokens=False)["input_ids"]
    return ids


def score(questions: Sequence[Question], given: Sequence[str]) -> dict[str, Any]:
    """Count the exact answers by kind, in percent to one decimal."""
    asked = Counter(question.kind for question in questions)
    right = Counter(
        question.kind
        for question, answer in zip(questions, given, strict=True)
        if answer.strip() == question.answer
    )
    kinds = {
        kind: {
            "questions": count,
            "exact": right[kind],
            "percent": round(100 * right[kind] / count, 1),
        }
        for kind, count in asked.items()
    }
    passed = all(kinds[kind]["percent"] >= bar for kind, bar in BARS.items() if kind in kinds)
    return {"dtype": "float32", "decoding": "greedy", "kinds": kinds, "passed": passed}


def _table(result: dict[str, Any]) -> Table:
    table = Table("kind", "questions", "exact", "percent", "bar")
    for kind, row in result["kinds"].items():
        bar = f"{BARS[kind]:.1f}" if kind in BARS else "-"
        table.add_row(kind, str(row["questions"]), str(row["exact"]), f"{row['percent']:.1f}", bar)
    return table


@click.command()
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path),
              default=FOLDER, show_default=True)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--wrong", is_flag=True, help="Also print every wrong answer.")
def main(model: Path, as_json: bool, wrong: bool) -> None:
    """Score a model and write score.json into its folder; exit 1 when a bar is missed."""
    torch.set_num_threads(THREADS)
    questions = load()
    given = answers(model, questions)
    result = score(questions, given)
    (model / "score.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if as_json:
        click.echo(json.dumps(result))
    else:
        Console().print(_table(result))
    if wrong:
        for question, answer in zip(questions, given, strict=True):
            if answer.strip() != question.answer:
                asked = question.messages[-1].content
                click.echo(f"{question.id}: {asked!r} -> {answer!r}, not {question.answer!r}")
    if not result["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
