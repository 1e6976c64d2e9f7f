"""What a build says at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgellama.cli.figure import figure
from edgellama.cli.size import size
from edgellama.cli.verb import print_json

if TYPE_CHECKING:
    from edgellama.optimize.build import BuildReport


def print_report(report: BuildReport, *, as_json: bool) -> None:
    """Write the report as a document or as lines."""
    if as_json:
        print_json(report.as_dict())
        return
    state = "unchanged" if report.skipped else f"built in {report.seconds:.1f} s"
    click.echo(f"engine       {report.engine} ({state})")
    click.echo(f"size         {size(report.bytes)}")
    click.echo(f"peak memory  {size(report.peak_rss_bytes)}")
    for name, value in report.verify.items():
        click.echo(f"verify       {name} = {figure(value)}")
