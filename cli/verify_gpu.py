"""`edgellama verify-gpu`: prove on a GPU what a machine without one cannot."""

from __future__ import annotations

import tempfile
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellama.cli.given import PATH
from edgellama.cli.progress import progress
from edgellama.cli.verb import Verb, print_json

if TYPE_CHECKING:
    from edgellama.benchmark.verify_gpu import Verification

SIZES = ("tiny", "1b", "3b", "8b", "70b")  # of `examples/random_llama.py`, which needs torch
MEASUREMENTS = Path("docs") / "measurements"


@click.command("verify-gpu", cls=Verb)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    help="Repeatable; by default the shipped ones for this GPU's compute capability.",
)
@click.option("--model", help="Checkpoint folder or hub id for the profiles; tiny by default.")
@click.option("--size", type=click.Choice(SIZES), help="Random weights of this size instead.")
@click.option(
    "--bundle",
    "bundles",
    type=PATH,
    multiple=True,
    help="Repeatable; a bundle to finish and check, where none can be made.",
)
@click.option(
    "--check",
    "names",
    multiple=True,
    help="Repeatable; make this check only, with those that it follows from.",
)
@click.option("--out", type=PATH, help="Default: docs/measurements/<date>-verify-gpu.")
@click.option("--work", type=PATH, help="Keep bundles, engines and logs here; removed by default.")
@click.option("--limit", type=click.FloatRange(min=1), help="Seconds that each check may take.")
def command(
    profiles: tuple[str, ...],
    model: str | None,
    size: str | None,
    bundles: tuple[Path, ...],
    names: tuple[str, ...],
    out: Path | None,
    work: Path | None,
    limit: float | None,
    as_json: bool,
) -> None:
    """Check GPU, TensorRT and engines on this machine and write a report.

    What the machine lacks is skipped with its reason. Exit code 1 when any check failed.
    """
    if model is not None and size is not None:
        raise click.UsageError("give --model or --size, not both")

    from edgellama.benchmark.gpu_checks import CHECKS, chosen_checks
    from edgellama.benchmark.gpu_report import write_reports
    from edgellama.benchmark.gpu_subjects import Wish
    from edgellama.benchmark.verify_gpu import verify_gpu

    known = [check.name for check in CHECKS]
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"{name!r} is none of {', '.join(known)}", param_hint="--check"
            )
    checks = chosen_checks(names)
    folder = out or MEASUREMENTS / f"{date.today().isoformat()}-verify-gpu"
    folder.mkdir(parents=True, exist_ok=True)  # one that cannot be written fails before the checks
    wish = Wish(profiles, model, size, bundles)
    with tempfile.TemporaryDirectory(prefix="verify-gpu-") as scratch, progress() as report:
        place = (work or Path(scratch)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        found = verify_gpu(wish, place, progress=report, limit=limit, checks=checks)
    write_reports(found, folder)
    if as_json:
        print_json({"out": str(folder), **found.as_dict()})
    else:
        _print(found, folder)
    if found.failed:
        click.get_current_context().exit(1)


def _print(found: Verification, folder: Path) -> None:
    for outcome in found.outcomes:
        subject = f" [{outcome.subject}]" if outcome.subject else ""
        reason = f": {outcome.reason}" if outcome.reason else ""
        click.echo(f"{outcome.state:<8} {outcome.check}{subject}{reason}")
    click.echo(f"report   {folder}")
    click.echo(found.summary)
