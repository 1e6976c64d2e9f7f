"""`edgellama bench batching`: what requests cost each other, and what is not the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from edgellama.cli.bench_text import print_environment
from edgellama.cli.chosen import chosen
from edgellama.cli.engine import engine_directory
from edgellama.cli.file_verb import STANDARD_OUTPUT, FileVerb, require_writable, write_json
from edgellama.cli.progress import progress
from edgellama.cli.size import size
from edgellama.cli.table import table

_HEADS = ("ratio", "median", "low", "high", "n")
_SHARE_PARTS = ("schedule", "sample", "detokenise", "update", "deliver", "bind")


@click.command("batching", cls=FileVerb)
@click.argument("engine")
@click.option("--parts", help="Names with commas between them; all that ENGINE has room for.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Of all; a round that would end later is not begun, but the first.",
)
@click.option("--threads", type=click.IntRange(min=1), help="The profile's by default.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def batching(
    engine: str,
    parts: str | None,
    rounds: int,
    minutes: float,
    threads: int | None,
    seed: int,
    as_json: Path | None,
) -> None:
    """Measure the in-flight batching of ENGINE in this process, as ratios of figures of one run.

    `interference`: gaps between tokens of running streams while a prompt that fills a slot is read,
    to those without it. `prefix`: time to first token of a prompt whose beginning is cached, to
    that of one whose is not. `shares`: of a decode step that are not the model's. `memory`: peak
    less the key-value cache, to the engine's files. `forms`: from how many tokens on a step takes
    the second form of the weights. A part that ENGINE has no room for is left out and says why.
    """
    require_writable(as_json)
    directory = engine_directory(engine)

    from edgellama.benchmark.batching import measure_batching

    wanted = _parts(parts)
    with progress() as report:
        result = measure_batching(
            directory,
            parts=wanted,
            rounds=rounds,
            minutes=minutes,
            seed=seed,
            threads=threads,
            progress=report,
        )
    if as_json is not None:
        write_json(result, as_json)
    if as_json != STANDARD_OUTPUT:
        print_batching(result)


def _parts(given: str | None) -> tuple[str, ...] | None:
    """Return the parts that are asked for; None for all. Raises CliError for an unknown one."""
    from edgellama.benchmark.batching import PARTS

    if given is None:
        return None
    return chosen("--parts", given, PARTS)


def print_batching(result: Mapping[str, Any]) -> None:
    """Print the document for people."""
    rows = [(name, *_series(values)) for name, values in _ratios(result)]
    if rows:
        click.echo(table(_HEADS, rows))
    if result["shares"]:
        click.echo("")
        click.echo(_shares(result["shares"]))
    click.echo("")
    for line in _lines(result):
        click.echo(line)
    click.echo(
        f"{result['profile']}, {result['slots']} slots of {result['capacity']} tokens, "
        f"{result['rounds_done']} of {result['rounds']} rounds in {result['seconds']:.0f} s, "
        f"{result['threads']} threads, seed {result['seed']}"
    )
    print_environment(result["environment"])
    for warning in result["environment"]["warnings"]:
        click.echo(f"warning: {warning}")


def _ratios(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    interference = result["interference"]
    if interference:
        yield "ITL p99, with a long prompt / alone", interference["p99_ratio"]
        yield "ITL p50, with a long prompt / alone", interference["p50_ratio"]
        yield "TTFT of the long prompt, beside streams / idle", interference["ttft_ratio"]
    if result["prefix"]:
        yield "TTFT, prefix cached / computed", result["prefix"]["ratio"]
    if result["memory"]:
        yield "(peak memory - cache) / files", result["memory"]["ratio"]


def _series(values: Mapping[str, Any]) -> tuple[str, ...]:
    return (*(f"{values[key]:.4g}" for key in ("median", "low", "high")), str(values["n"]))


def _shares(found: Mapping[str, Any]) -> str:
    heads = (f"{found['rows']} rows", "step ms", "all but model", *_SHARE_PARTS)
    return table(heads, [_share_row(row) for row in found["samplings"]])


def _share_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    parts = [row["parts"][part]["median"] for part in _SHARE_PARTS]
    shares = [row["share"]["median"], *parts]
    return (
        row["sampling"],
        f"{row['step_ms']['median']:.2f}",
        *(f"{100 * share:.2f} %" for share in shares),
    )


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    interference, prefix = result["interference"], result["prefix"]
    if interference:
        alone, beside = interference["itl_ms_alone"], interference["itl_ms_beside"]
        yield (
            f"interference: {interference['streams']} streams, a prompt of "
            f"{interference['prompt_tokens']} tokens; ITL p50 {alone['p50']:.2f} -> "
            f"{beside['p50']:.2f} ms, p99 {alone['p99']:.2f} -> {beside['p99']:.2f} ms; TTFT "
            f"{interference['ttft_ms_idle']['median']:.1f} ms idle, "
            f"{interference['ttft_ms_beside']['median']:.1f} ms beside them"
        )
    if prefix:
        yield (
            f"prefix: {prefix['prefix_tokens']} tokens and {prefix['tail_tokens']} others, "
            f"{prefix['cached_tokens']} found; TTFT {prefix['ttft_ms_cold']['median']:.1f} -> "
            f"{prefix['ttft_ms_cached']['median']:.1f} ms"
        )
    if result["memory"]:
        yield _memory(result["memory"])
    if result["forms"]:
        yield _forms(result["forms"])
    for part, reason in result["left_out"].items():
        yield f"{part}: left out, {reason}"


def _memory(found: Mapping[str, Any]) -> str:
    imports, loaded, peak = (
        size(round(found[f"{name}_rss_bytes"]["median"])) for name in ("imports", "loaded", "peak")
    )
    return (
        f"memory: {imports} with the imports alone, {loaded} loaded, {peak} at most; the cache has "
        f"{size(found['kv_bytes'])} ({found['slots']} x {found['capacity']} {found['kv_dtype']}), "
        f"the files {size(found['engine_bytes'])}"
    )


def _forms(found: Mapping[str, Any]) -> str:
    limit, apart = found["batch_from"], found["from_first"]
    text = f"forms: {found['weights']}"
    if limit is None:
        text += f" for every step, {found['batch_weights']} was never faster"
    else:
        text += f", and {found['batch_weights']} for steps of {limit} tokens and more"
    if apart is None:
        return f"{text}; the build did not measure how far they differ"
    return f"{text}; KL {apart['kl_mean']:.4g} nats from the first to the second"
