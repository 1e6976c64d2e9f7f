"""`edgellama bench latency`: how fast an engine is in this process, and what the machine could."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from edgellama.cli.bench_text import print_environment
from edgellama.cli.engine import engine_directory
from edgellama.cli.numbers import counts
from edgellama.cli.progress import progress
from edgellama.cli.size import size
from edgellama.cli.table import table
from edgellama.cli.verb import Verb, print_json

_TIMES = ("TTFT p50", "p95 ms", "ITL p50", "p99 ms")
_REQUEST_HEADS = ("prompt", "rows", *_TIMES, "prefill/s", "tokens/s", "of matrix", "of memory")
_STEP_HEADS = ("context", "rows", "step ms", "spread", "GB/s", "of memory")


def _counts(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    return None if value is None else counts(ctx, param, value)


@click.command("latency", cls=Verb)
@click.argument("engine")
@click.option("--prompt-tokens", "prompts", callback=_counts, help="Lengths, such as 64,512.")
@click.option("--rows", callback=_counts, help="Requests at once, such as 1,4,8.")
@click.option("--contexts", callback=_counts, help="Tokens that a single decode step has behind.")
@click.option("--output-tokens", type=click.IntRange(min=2), help="New tokens of each request.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", type=int, help="Compute threads; the profile's by default.")
@click.option("--ceilings/--no-ceilings", default=True, help="Measure the machine's best beside.")
def latency(
    engine: str,
    prompts: tuple[int, ...] | None,
    rows: tuple[int, ...] | None,
    contexts: tuple[int, ...] | None,
    output_tokens: int | None,
    rounds: int,
    threads: int | None,
    ceilings: bool,
    as_json: bool,
) -> None:
    """Measure first token, decode speed and single steps of ENGINE in this process.

    What is not given follows from the engine's limits: prompts of 1/32 and 1/4 of a slot, one row,
    half and all of the slots, contexts of 1/16, 1/2 and a whole slot. A share is the least time
    that the machine's own speed, measured beside every cell, allows, divided by the time it took.
    """
    directory = engine_directory(engine)

    from edgellama.benchmark.latency import measure_latency

    with progress() as report:
        result = measure_latency(
            directory,
            prompts=prompts,
            rows=rows,
            contexts=contexts,
            output_tokens=output_tokens,
            rounds=rounds,
            threads=threads,
            ceilings=ceilings,
            progress=report,
        )
    if as_json:
        print_json(result)
        return
    print_latency(result)


def print_latency(result: Mapping[str, Any]) -> None:
    """Print the document for people."""
    load, peak = result["load_seconds"], size(result["peak_rss_bytes"])
    click.echo(f"load {load:.2f} s, {peak} resident at most, {result['rounds']} rounds")
    click.echo(table(_REQUEST_HEADS, list(map(_request, result["requests"]))))
    click.echo("")
    click.echo(table(_STEP_HEADS, list(map(_step, result["steps"]))))
    best = result["ceilings"]
    if best is not None:
        used = best["matrix_used"]
        click.echo(
            f"\nceilings: {best['read_gb_s']['median']:.1f} GB/s read, "
            f"{best['matrix_gops'][used]['median']:.0f} GFLOP/s in {used}, {best['source']}"
        )
    print_environment(result["environment"])


def _request(row: Mapping[str, Any]) -> tuple[str, ...]:
    ttft, itl, rate = row["ttft_ms"], row["itl_ms"], row["tokens_per_s"]
    return (
        str(row["prompt_tokens"]),
        str(row["rows"]),
        f"{ttft['p50']:.1f}",
        f"{ttft['p95']:.1f}",
        f"{itl['p50']:.2f}",
        f"{itl['p99']:.2f}",
        f"{row['prefill_tokens_per_s']['median']:.0f}",
        "-" if rate is None else f"{rate['median']:.1f}",
        _share(row, "prefill_share"),
        _share(row, "decode_share"),
    )


def _step(row: Mapping[str, Any]) -> tuple[str, ...]:
    spread = row["ms"]["spread"]
    return (
        str(row["context"]),
        str(row["rows"]),
        f"{row['ms']['median']:.2f}",
        f"{100 * spread:.0f} %",
        f"{row['gb_s']['median']:.1f}",
        _share(row, "share"),
    )


def _share(row: Mapping[str, Any], name: str) -> str:
    return f"{100 * row[name]['median']:.0f} %" if name in row else "-"
