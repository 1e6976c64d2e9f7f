"""`edgellama finish`: a bundle to an engine, on the device that will run it."""

from __future__ import annotations

from pathlib import Path

import click

from edgellama.cli.given import PATH
from edgellama.cli.override import BACKEND
from edgellama.cli.progress import progress
from edgellama.cli.report import print_report
from edgellama.cli.verb import Verb


@click.command("finish", cls=Verb)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--out", type=PATH, help="Default: engines/<profile>.")
@click.option("--backend", type=BACKEND, help="Library to build with; the bundle's by default.")
@click.option("--timing-cache", type=PATH, help="Folder of TensorRT's timing caches.")
def command(
    bundle: Path,
    out: Path | None,
    backend: str | None,
    timing_cache: Path | None,
    as_json: bool,
) -> None:
    """Build the engine of BUNDLE, a folder that `edgellama build --bundle` wrote.

    It needs neither the checkpoint nor the packages that exported it.
    """
    from edgellama.optimize.bundle import sealed_manifest
    from edgellama.optimize.finish import finish_bundle

    directory = out or Path("engines") / sealed_manifest(bundle).profile.name
    with progress() as show:
        report = finish_bundle(
            bundle, directory, backend=backend, progress=show, cache=timing_cache
        )
    print_report(report, as_json=as_json)
