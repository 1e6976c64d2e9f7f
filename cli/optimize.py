"""`edgellama optimize`: an exported model to a verified engine."""

from __future__ import annotations

from pathlib import Path

import click

from edgellama.cli.given import PATH
from edgellama.cli.override import BUNDLE_OPTION, Override, override_options
from edgellama.cli.progress import progress
from edgellama.cli.report import print_report
from edgellama.cli.verb import Verb
from edgellama.profiles.profile import load_profile


@click.command("optimize", cls=Verb)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--profile", required=True, help="A shipped name or the path of a .toml file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@override_options
@click.option("--scales", type=PATH, help="Scales that `edgellama calibrate` wrote.")
@BUNDLE_OPTION
@click.option("--force", is_flag=True, help="Build even when nothing has changed.")
def command(
    model: Path,
    profile: str,
    out: Path,
    override: Override,
    scales: Path | None,
    bundle: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Build the engine of MODEL, a folder that `edgellama export` wrote."""
    wanted = override.apply(load_profile(profile))  # before what is slow: fails at once

    from edgellama.optimize.bundle import require_output
    from edgellama.optimize.tensorrt.preflight import require_backend

    require_output(wanted, out, bundle=bundle)
    if wanted.build.is_tensorrt and not bundle:
        require_backend(wanted)

    from edgellama.optimize.build import optimize_portable
    from edgellama.optimize.quantization import Given

    with progress() as show:
        report = optimize_portable(
            wanted,
            model,
            out,
            given=Given(scales),
            progress=show,
            force=force,
            bundle=bundle,
        )
    print_report(report, as_json=as_json, noun="bundle" if bundle else "engine")
