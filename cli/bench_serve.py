"""`edgellama bench serve`: a server under load."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.bench_load import REQUESTS, lengths_to_send
from edgellama.cli.bench_serve_text import serve_text
from edgellama.cli.bench_text import print_environment
from edgellama.cli.engine import engine_directory
from edgellama.cli.numbers import seconds as seconds_value
from edgellama.cli.progress import progress
from edgellama.cli.verb import Verb, print_json

if TYPE_CHECKING:
    from edgellama.profiles.profile import Slo


def _fractions(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    """Return the numbers above 0 of an option such as `--rates 0.5,1`."""
    try:
        numbers = tuple(map(float, value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list such as 0.5,1", ctx, param) from None
    if not all(0 < number < math.inf for number in numbers):
        raise click.BadParameter(f"{value!r} has a number that is not above 0", ctx, param)
    return numbers


@click.command("serve", cls=Verb)
@click.option("--target", help="HOST:PORT of a server; without it --engine is served.")
@click.option("--engine", help="The engine of the server: measures what gRPC costs it.")
@click.option(
    "--lengths",
    help="PROMPT/OUTPUT such as 128/128, chat, or shared-prefix; default: --profile's, or chat.",
)
@click.option("--profile", help="Profile, or its .toml, whose [slo] counts.")
@click.option("--slo-ttft-ms", type=float, help="A good request's time to first token.")
@click.option("--slo-itl-ms", type=float, help="A good request's time per token after it.")
@click.option(
    "--seconds",
    type=float,
    default=5.0,
    show_default=True,
    callback=seconds_value,
    help="Of each point.",
)
@REQUESTS
@click.option(
    "--rates",
    "fractions",
    callback=_fractions,
    default="0.25,0.5,0.75,0.9,1,1.2",
    show_default=True,
    help="Parts of the saturation.",
)
@click.option("--bursty", is_flag=True, help="Add bursts (gamma 0.25) at 0.75 of the saturation.")
@click.option(
    "--timeout",
    type=float,
    default=120.0,
    show_default=True,
    callback=seconds_value,
    help="Seconds a call.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def serve(
    target: str | None,
    engine: str | None,
    lengths: str | None,
    profile: str | None,
    slo_ttft_ms: float | None,
    slo_itl_ms: float | None,
    seconds: float,
    requests: int,
    fractions: tuple[float, ...],
    bursty: bool,
    timeout: float,
    seed: int,
    as_json: bool,
) -> None:
    """Load a server until it saturates and beyond.

    First 1, 2, 4... requests at a time up to its slots, which gives the saturation; then requests
    at rates below and above it, as they come by chance, and at twice of it. Goodput counts the
    answers within the bounds of --profile, or of --slo-ttft-ms and --slo-itl-ms.
    """
    if target is None and engine is None:
        raise click.UsageError("give --target, --engine, or both")
    directory = None if engine is None else engine_directory(engine)
    slo = _slo(profile, slo_ttft_ms, slo_itl_ms)

    from edgellama.benchmark.grpc_tax import TaxPlan
    from edgellama.benchmark.rate_sweep import SweepPlan

    plan = SweepPlan(seconds, fractions, bursty, timeout, seed, requests)
    chosen = lengths_to_send(lengths, slo)

    result = _measured(target, directory, chosen, slo, plan, TaxPlan())
    if as_json:
        print_json(result)
        return
    click.echo(serve_text(result))
    print_environment(result["environment"])


def _measured(
    target: str | None, engine: Path | None, lengths: Any, slo: Slo | None, plan: Any, tax: Any
) -> Mapping[str, Any]:
    from edgellama.benchmark.serving import measure_serving

    with progress() as report:
        return measure_serving(
            target=target,
            engine=engine,
            lengths=lengths,
            slo=slo,
            plan=plan,
            tax=tax,
            progress=report,
        )


def _slo(profile: str | None, ttft_ms: float | None, itl_ms: float | None) -> Slo | None:
    """Return the bounds from one of the two places; None from neither."""
    from edgellama.profiles.profile import Slo, load_profile

    if (ttft_ms is None) != (itl_ms is None):
        raise click.UsageError("--slo-ttft-ms and --slo-itl-ms go together; give both")
    if profile is None:
        if ttft_ms is None or itl_ms is None:
            return None
        return Slo(ttft_ms, itl_ms, "the command line")
    if ttft_ms is not None:
        raise click.UsageError("--profile and --slo-ttft-ms both give bounds; leave one out")

    from edgellama.benchmark.slo import slo_of

    return slo_of(load_profile(profile))
