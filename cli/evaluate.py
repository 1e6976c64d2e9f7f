"""`edgellama evaluate`: what an engine, or an exported model, knows and what it has lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellama.cli.engine import engine_directory
from edgellama.cli.evaluated import load_model
from edgellama.cli.progress import Report, progress
from edgellama.cli.size import size
from edgellama.cli.table import table
from edgellama.cli.verb import Verb, print_json

if TYPE_CHECKING:
    from edgellama.benchmark.evaluation import Evaluation, Text
    from edgellama.benchmark.questions import Question

COLUMNS = (
    "engine",
    "weights / tables / KV",
    "size",
    "perplexity",
    "change",
    "bits/byte",
    "KL mean",
    "KL p99",
    "same best",
    "greedy",
    "questions",
)


@click.command("evaluate", cls=Verb)
@click.argument("engines", metavar="ENGINE...", nargs=-1, required=True)
@click.option("--text", type=click.Path(path_type=Path), required=True, help="UTF-8 text.")
@click.option("--split", help="What separates documents; without it the text is one document.")
@click.option(
    "--reference",
    metavar="ENGINE",
    help="Another engine or export of the same model: reports the divergence from it.",
)
@click.option(
    "--questions",
    metavar="FILE",
    help="JSON lines of questions to answer exactly, or `tiny` for those of the tiny model.",
)
@click.option("--compare", is_flag=True, help="A table of several engines; the first is reference.")
@click.option("--limit-documents", type=click.IntRange(min=1), help="Only the first N documents.")
@click.option("--limit-tokens", type=click.IntRange(min=1), help="Only the first N tokens.")
@click.option(
    "--greedy-tokens",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="New tokens an answer, to find where greedy answers part from the reference's; 0: none.",
)
@click.option("--threads", type=int, help="Compute threads; the profile's by default.")
def command(
    engines: tuple[str, ...],
    text: Path,
    split: str | None,
    reference: str | None,
    questions: str | None,
    compare: bool,
    limit_documents: int | None,
    limit_tokens: int | None,
    greedy_tokens: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure the perplexity of ENGINE on a text, each document alone.

    ENGINE is an engine, or a folder that `edgellama export` wrote. Each document is stripped,
    starts with BOS and is cut at the capacity of a slot. The reference may be either too, the fp32
    engine of the same checkpoint for example.
    """
    if len(engines) > 1 and not compare:
        raise click.UsageError("several engines are compared; add --compare, or give one")
    for name in (*engines, *([reference] if reference is not None else [])):
        engine_directory(name)  # a name that is wrong fails before the first is measured
    text.stat()  # fails here when there is no such file

    from edgellama.benchmark.evaluation import Text

    wanted = Text(text, split, limit_documents, limit_tokens, greedy_tokens)
    asked = _questions(questions)
    with progress() as report:
        if compare:
            found = list(_compare(engines, reference, wanted, asked, threads, report))
        else:
            found = [_evaluate(engines[0], reference, wanted, asked, threads, report)]
    if as_json:
        print_json([row.as_dict() for row in found] if compare else found[0].as_dict())
    elif compare:
        click.echo(table(COLUMNS, [_row(item) for item in found]))
    else:
        _print(found[0])


def _questions(name: str | None) -> list[Question]:
    """Read the questions of `--questions`; none without it."""
    if name is None:
        return []
    from edgellama.benchmark.questions import read_questions

    if name == "tiny":
        from edgellama.examples.tiny_llama.questions import FILE

        return read_questions(FILE)
    return read_questions(Path(name))


def _evaluate(
    engine: str,
    reference: str | None,
    text: Text,
    questions: Sequence[Question],
    threads: int | None,
    report: Report,
) -> Evaluation:
    from edgellama.benchmark.evaluation import ReferenceModel, evaluate_model

    with closing(load_model(engine, threads)) as model:
        if reference is None:
            return evaluate_model(model, text, questions=questions, report=report)
        with closing(load_model(reference, threads)) as other:
            against = ReferenceModel(other)
            return evaluate_model(
                model, text, reference=against, questions=questions, report=report
            )


def _compare(
    engines: Sequence[str],
    reference: str | None,
    text: Text,
    questions: Sequence[Question],
    threads: int | None,
    report: Report,
) -> Iterator[Evaluation]:
    """Yield a row an engine; the reference, by default the first, and one engine are loaded."""
    from edgellama.benchmark.evaluation import ReferenceModel, evaluate_model

    first = reference if reference is not None else engines[0]
    base = engine_directory(first).resolve()
    with closing(load_model(first, threads)) as other:
        against = ReferenceModel(other)
        for name in engines:

            def show(stage: str, done: int, total: int, name: str = name) -> None:
                report(f"{name}: {stage}", done, total)

            if engine_directory(name).resolve() == base:
                yield evaluate_model(other, text, questions=questions, report=show)
                continue
            with closing(load_model(name, threads)) as model:
                yield evaluate_model(
                    model, text, reference=against, questions=questions, report=show
                )


def _row(item: Evaluation) -> list[str]:
    """Return the cells of COLUMNS; a dash for what was not measured."""
    far, greedy, increase = item.divergence, item.greedy, item.perplexity_increase
    return [
        item.name,
        item.precision,
        size(item.size_bytes),
        f"{item.text.perplexity:.4f}",
        "-" if increase is None else f"{100 * increase:+.2f} %",
        f"{item.text.bits_per_byte:.4f}",
        "-" if far is None else f"{far['kl_mean']:.5f}",
        "-" if far is None else f"{far['kl_p99']:.4f}",
        "-" if far is None else f"{100 * far['top1_agreement']:.2f} %",
        "-" if greedy is None else f"{greedy.mean:.1f} of {greedy.new_tokens}",
        "-" if item.score is None else f"{item.score.percent:.1f} %",
    ]


def _print(item: Evaluation) -> None:
    text, far, greedy, score = item.text, item.divergence, item.greedy, item.score
    cut = f", {text.cut_documents} of them cut" if text.cut_documents else ""
    rows = [
        ("perplexity", f"{text.perplexity:.4f} a token, {text.perplexity_per_byte:.4f} a byte"),
        ("bits per byte", f"{text.bits_per_byte:.4f}"),
        ("tokens", f"{text.tokens} in {text.documents} documents{cut}"),
    ]
    if far is not None and item.perplexity_increase is not None:
        rows += [
            (
                "reference",
                f"perplexity {item.reference_perplexity:.4f}, "
                f"so the engine's is {100 * item.perplexity_increase:+.2f} %",
            ),
            (
                "divergence",
                f"{far['kl_mean']:.5f} nats on average, {far['kl_p99']:.4f} at the 99th "
                f"percentile, {far['kl_max']:.3f} at most",
            ),
            ("same best", f"{100 * far['top1_agreement']:.2f} % of tokens"),
        ]
    if greedy is not None:
        rows.append(
            (
                "greedy",
                f"{greedy.mean:.1f} of {greedy.new_tokens} tokens until the first that differs "
                f"(median {greedy.median:g}, least {min(greedy.agreed)}); "
                f"{greedy.identical} of {len(greedy.agreed)} answers are the same",
            )
        )
    if score is not None:
        for kind in score.asked:
            rows.append((kind, f"{score.exact[kind]} of {score.asked[kind]} answers exact"))
        total = f"{score.exact.total()} of {score.asked.total()}"
        rows.append(("questions", f"{total} answers exact, {score.percent:.1f} %"))
    for name, value in rows:
        click.echo(f"{name:<14} {value}")
