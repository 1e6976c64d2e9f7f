"""`edgellama bench check`: fail when a figure is worse than it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgellama.cli.engine import engine_directory
from edgellama.cli.failure import CliError
from edgellama.cli.json_document import read_document
from edgellama.cli.progress import progress
from edgellama.cli.table import table
from edgellama.cli.verb import Verb, print_json

_WANTED = "the JSON of a benchmark"


@click.command("check", cls=Verb)
@click.argument("baseline", type=click.Path(path_type=Path))
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="JSON of a later run.")
@click.option("--engine", help="Measure this engine now, as the baseline was.")
@click.option("--counts", "counts_only", is_flag=True, help="Instructions only: any machine.")
@click.option(
    "--limit",
    type=click.FloatRange(0, min_open=True),
    default=0.10,
    show_default=True,
    help="How much worse a figure may be.",
)
def check(
    baseline: Path,
    run_path: Path | None,
    engine: str | None,
    counts_only: bool,
    limit: float,
    as_json: bool,
) -> None:
    """Compare ratios and instruction counts with those of BASELINE, the JSON of an earlier run.

    Shares of the ceilings, peers' speeds as ratios to ours, the ratios of `bench batching`, and
    instructions are compared; bare times are not, for they drift with the machine. Exit code 1 when
    a figure is missing or worse by more than --limit.
    """
    if (run_path is None) == (engine is None):
        raise click.UsageError("give either --run FILE or --engine ENGINE")
    before = read_document(baseline, _WANTED)

    from edgellama.benchmark.regression import compare

    if run_path is not None:
        now = read_document(run_path, _WANTED)
    else:
        assert engine is not None
        now = _measure(before, engine, counts_only)
    if counts_only:
        before, now = _counts(before, baseline), _counts(now, run_path or baseline)
    found = compare(before, now, limit=limit)
    failed = [each for each in found if each.has_failed]
    if as_json:
        rows = [each.as_dict() for each in found]
        print_json({"limit": limit, "failed": len(failed), "figures": rows})
    else:
        rows_of_text = [_row(each.as_dict()) for each in found]
        click.echo(table(("figure", "before", "now", "worse by", ""), rows_of_text))
        click.echo(f"{len(failed)} of {len(found)} figures are worse by more than {limit:.0%}")
    if failed:
        raise SystemExit(1)


def _counts(document: dict[str, Any], path: Path) -> dict[str, Any]:
    counts = document if document.get("kind") == "counts" else document.get("counts")
    if not counts:
        raise CliError(f"{path} has no instruction counts; leave out --counts")
    return dict(counts)


def _measure(before: dict[str, Any], engine: str, counts_only: bool) -> dict[str, Any]:
    """Measure again what the baseline has; peers need a run of their own."""
    directory = engine_directory(engine)

    from edgellama.benchmark.figures import DocumentError
    from edgellama.benchmark.instruction_counts import count_instructions
    from edgellama.benchmark.repeat import repeat_batching, repeat_latency

    kind = before.get("kind")
    parts = {str(kind): before} if kind != "run" else before
    if parts.get("peers") and not counts_only:
        raise DocumentError(
            "the baseline has figures of peers, which take a run of `bench peers`; give it with "
            "--run, or compare the counts alone with --counts"
        )
    now: dict[str, Any] = {"kind": "run"}
    with progress() as report:
        if parts.get("latency") and not counts_only:
            now["latency"] = repeat_latency(parts["latency"], directory, report)
        if parts.get("batching") and not counts_only:
            now["batching"] = repeat_batching(parts["batching"], directory, report)
        if parts.get("counts"):
            report("count instructions", 0, 0)
            now["counts"] = count_instructions(directory)
    return now


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    if each["now"] is None:
        return (each["figure"], f"{each['before']:.4g}", "missing", "", "FAILED")
    worse = f"{100 * each['worsening']:+.1f} %"
    state = "FAILED" if each["failed"] else ""
    return (each["figure"], f"{each['before']:.4g}", f"{each['now']:.4g}", worse, state)
