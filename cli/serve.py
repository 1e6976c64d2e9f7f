"""`edgellama serve`: an engine behind gRPC."""

from __future__ import annotations

import os

import click

from edgellama.cli.engine import engine_directory
from edgellama.cli.greedy_form import greedy_form_option
from edgellama.cli.limits import limit_options, limits_of
from edgellama.cli.numbers import seconds
from edgellama.cli.verb import Verb, print_json


@click.command("serve", cls=Verb)
@click.argument("engine")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=50051,
    show_default=True,
    help="0 takes a free one.",
)
@click.option("--threads", type=int, help="Compute threads; the profile's by default.")
@greedy_form_option
@click.option(
    "--grace",
    type=float,
    default=30.0,
    show_default=True,
    callback=seconds,
    help="Seconds to drain.",
)
@click.option(
    "--preempt",
    is_flag=True,
    help="Let a waiting request take the slot of a running one of lower priority.",
)
@limit_options
def command(
    engine: str,
    host: str,
    port: int,
    threads: int | None,
    greedy_form: str | None,
    grace: float,
    preempt: bool,
    chunk_slowdown: float | None,
    draft_tokens: int | None,
    prefix_store_mib: int | None,
    as_json: bool,
) -> None:
    """Serve ENGINE, a directory or the name of a built profile, until SIGTERM or Ctrl-C.

    The JSON document comes when clients can connect: `target`, `engine`, `pid`. Exit code 0 when
    every call in flight was completed, 1 when the grace was too short for one.
    """
    directory = engine_directory(engine)
    limits = limits_of(directory, chunk_slowdown, draft_tokens, prefix_store_mib)

    from edgellama.grpc_service.serve import serve
    from edgellama.runtime.engine import Engine

    def ready(address: str) -> None:
        if as_json:
            print_json({"target": address, "engine": str(directory), "pid": os.getpid()})
        else:
            click.echo(f"serving {directory} on {address}")

    with Engine.load(
        directory,
        threads=threads,
        preempt=preempt,
        limits=limits,
        greedy_form=greedy_form,
    ) as loaded:
        completed = serve(loaded, host=host, port=port, grace_seconds=grace, ready=ready)
    if not completed:
        click.echo(f"stopped with calls in flight after {grace:g} s of grace", err=True)
        raise SystemExit(1)
