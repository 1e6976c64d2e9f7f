"""`edgellama bench all`: everything about an engine, as JSON, one page and plots."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import click

from edgellama.cli.bench_latency import print_latency
from edgellama.cli.bench_load import REQUESTS, lengths_to_send
from edgellama.cli.bench_serve_text import serve_text
from edgellama.cli.engine import engine_directory
from edgellama.cli.failure import CliError
from edgellama.cli.file_verb import write_json
from edgellama.cli.given import PATH
from edgellama.cli.json_document import read_document
from edgellama.cli.numbers import seconds as seconds_value
from edgellama.cli.progress import progress
from edgellama.cli.verb import Verb, print_json

MEASUREMENTS = Path("docs") / "measurements"


@click.command("all", cls=Verb)
@click.argument("engine")
@click.option("--out", type=PATH, help="Default: docs/measurements/<date>-<profile>.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--seconds",
    type=float,
    default=3.0,
    show_default=True,
    callback=seconds_value,
    help="Of each point of the sweep.",
)
@REQUESTS
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    default=6.0,
    show_default=True,
    help="Of latency; what would take longer is measured once.",
)
@click.option("--lengths", help="As `bench serve` has it; those of the profile's [slo] by default.")
@click.option("--peers", type=PATH, help="The document of `bench peers` to show beside it.")
@click.option("--counts/--no-counts", default=True, help="Count instructions, with valgrind.")
@click.option("--ceilings/--no-ceilings", default=True, help="Measure the machine's best beside.")
def bench_all(
    engine: str,
    out: Path | None,
    rounds: int,
    seconds: float,
    requests: int,
    minutes: float,
    lengths: str | None,
    peers: Path | None,
    counts: bool,
    ceilings: bool,
    as_json: bool,
) -> None:
    """Measure latency, serving and instructions of ENGINE; write run.json, report.html and plots.

    Goodput is within the [slo] of the engine's profile; the accuracy is what its build measured.
    """
    directory = engine_directory(engine)

    from edgellama.benchmark.rate_sweep import SweepPlan
    from edgellama.benchmark.report.page import write_report
    from edgellama.benchmark.whole_run import RunPlan, measure_run
    from edgellama.runtime.manifest import read_manifest

    profile = read_manifest(directory).profile
    sent = lengths_to_send(lengths, profile.slo)
    plan = RunPlan(rounds, minutes, SweepPlan(seconds, requests=requests), sent, counts, ceilings)
    beside = None if peers is None else _peers(peers)
    folder = out or MEASUREMENTS / f"{date.today().isoformat()}-{profile.name}"
    folder.mkdir(parents=True, exist_ok=True)  # one that cannot be written fails before the run
    with progress() as report:
        command = shlex.join(["edgellama", *sys.argv[1:]])
        document = measure_run(directory, plan, command=command, peers=beside, progress=report)
        run = folder / "run.json"
        folder.mkdir(parents=True, exist_ok=True)  # whoever removed it meanwhile costs no run
        write_json(document, run)
        files = [run, *write_report(document, folder, report=report)]
    if as_json:
        print_json({"files": [str(path) for path in files], **document})
        return
    print_latency(document["latency"])
    click.echo("")
    click.echo(serve_text(document["serve"]))
    for path in files:
        click.echo(path)


def _peers(path: Path) -> Mapping[str, Any]:
    """Return the document of a file; raises CliError for one of another kind."""
    document = read_document(path, "what `bench peers` wrote")
    if document.get("kind") != "peers":
        raise CliError(f"{path} is no document of kind 'peers'; give what `bench peers` wrote")
    return document
