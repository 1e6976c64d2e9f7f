"""What a build says at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgellama.cli.flat import flat
from edgellama.cli.size import size
from edgellama.cli.verb import print_json

if TYPE_CHECKING:
    from edgellama.optimize.build_report import BuildReport


def print_report(report: BuildReport, *, as_json: bool, noun: str = "engine") -> None:
    """Write the report as a document or as lines; `noun` is what was built."""
    if as_json:
        print_json(report.as_dict())
        return
    state = "unchanged" if report.skipped else f"built in {report.seconds:.1f} s"
    click.echo(f"{noun:<12} {report.engine} ({state})")
    click.echo(f"size         {size(report.bytes)}")
    click.echo(f"peak memory  {size(report.peak_rss_bytes)}")
    for line in flat(report.verify):
        click.echo(f"verify       {line}")
