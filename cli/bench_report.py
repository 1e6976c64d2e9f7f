"""`edgellama bench report`: a run as one page and its plots."""

from __future__ import annotations

from pathlib import Path

import click

from edgellama.cli.given import PATH
from edgellama.cli.progress import progress
from edgellama.cli.verb import Verb, print_json


@click.command("report", cls=Verb)
@click.argument("run", metavar="RUN.json", type=PATH)
@click.option("--out", type=PATH, help="Folder for the files; that of RUN.json by default.")
def report(run: Path, out: Path | None, as_json: bool) -> None:
    """Write report.html and a PNG of each plot of RUN.json, a document of `bench all`.

    The page holds everything itself: it needs no network and no other file. Files of an earlier
    report in the folder are replaced.
    """
    from edgellama.benchmark.report.document import load_document
    from edgellama.benchmark.report.page import write_report

    document = load_document(run)
    with progress() as show:
        files = write_report(document, out or run.parent, report=show)
    if as_json:
        print_json({"files": [str(path) for path in files]})
        return
    for path in files:
        click.echo(path)
