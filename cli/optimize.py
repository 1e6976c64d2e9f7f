"""`edgellama optimize`: a portable ONNX model to a verified engine."""

from __future__ import annotations

from pathlib import Path

import click

from edgellama.cli.override import Override, override_options
from edgellama.cli.progress import progress
from edgellama.cli.verb import Verb, print_json
from edgellama.profiles.profile import load_profile


@click.command("optimize", cls=Verb)
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--profile", required=True, help="Shipped profile name or a .toml file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Engine folder.")
@override_options
@click.option("--force", is_flag=True, help="Build even when nothing has changed.")
def command(
    model: Path, profile: str, out: Path, override: Override, force: bool, as_json: bool
) -> None:
    """Compile MODEL, a folder that `edgellama export` wrote, into an engine."""
    wanted = override.apply(load_profile(profile))

    from edgellama.optimize.build import optimize_portable

    with progress() as show:
        report = optimize_portable(wanted, model, out, progress=show, force=force)
    if as_json:
        print_json(report.as_dict())
        return
    for name, value in report.as_dict().items():
        click.echo(f"{name:<16} {value}")
