"""`edgellama bench`: how fast an engine is, alone and under load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from edgellama.cli.bench_export import export
from edgellama.cli.engine import engine_directory
from edgellama.cli.numbers import counts, seconds
from edgellama.cli.progress import progress
from edgellama.cli.size import size
from edgellama.cli.verb import Verb, print_json


@click.group("bench")
def command() -> None:
    """Measure an engine, a server, or the export."""


command.add_command(export)


@command.command("latency", cls=Verb)
@click.argument("engine")
@click.option("--rows", callback=counts, default="1,4,8", show_default=True, help="At once.")
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--output-tokens", type=click.IntRange(min=2), default=64, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", type=int, help="Compute threads; the profile's by default.")
def latency(
    engine: str,
    rows: tuple[int, ...],
    prompt_tokens: int,
    output_tokens: int,
    repeats: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure load, first token and decode speed of ENGINE in this process."""
    directory = engine_directory(engine)

    from edgellama.benchmark.latency import measure_latency

    with progress() as report:
        result = measure_latency(
            directory,
            rows=rows,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            repeats=repeats,
            threads=threads,
            progress=report,
        )
    if as_json:
        print_json(result)
        return
    click.echo(f"load    {result['load_seconds']:.2f} s, {size(result['rss_bytes'])} resident")
    for row in result["rows"]:
        click.echo(f"{row['rows']:>4} rows  {_speed(row)}, {times(row)}")
    _print_environment(result["environment"])


@command.command("serve", cls=Verb)
@click.option("--target", required=True, help="HOST:PORT of a server.")
@click.option("--streams", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--requests", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--output-tokens", type=click.IntRange(min=2), default=64, show_default=True)
@click.option(
    "--timeout",
    type=float,
    default=300.0,
    show_default=True,
    callback=seconds,
    help="Seconds a call.",
)
def serve(
    target: str,
    streams: int,
    requests: int,
    prompt_tokens: int,
    output_tokens: int,
    timeout: float,
    as_json: bool,
) -> None:
    """Measure a server with a fixed number of streams, each sending one request after another."""
    from edgellama.benchmark.load import measure_load

    with progress() as report:
        result = measure_load(
            target,
            streams=streams,
            requests=requests,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            timeout=timeout,
            progress=report,
        )
    if as_json:
        print_json(result)
        return
    rate = result["output_tokens_per_second"]
    click.echo(f"{requests} requests, {streams} at once: {rate:.1f} tokens/s, {times(result)}")
    _print_environment(result["environment"])


def _speed(row: Mapping[str, Any]) -> str:
    rate = row["decode_tokens_per_second"]
    return "no common decode" if rate is None else f"{rate:.1f} tokens/s"


def times(row: Mapping[str, Any]) -> str:
    """Return first token and gap between tokens of one measurement, for people."""
    return f"TTFT {_spread(row['ttft_ms'], 1)}, ITL {_spread(row['itl_ms'], 2)}"


def _spread(series: Mapping[str, Any], digits: int) -> str:
    """Return two percentiles; a short answer may come in one piece and have no gap to measure."""
    if not series["n"]:
        return "not measured"
    return f"p50 {series['p50']:.{digits}f} p95 {series['p95']:.{digits}f} ms"


def _print_environment(facts: Mapping[str, Any]) -> None:
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    click.echo(
        f"on {facts['cpu']}, {facts['cores']} cores, load {facts['load_average']}; {packages}"
    )
