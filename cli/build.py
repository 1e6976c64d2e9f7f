"""`edgellama build`: all stages, from a checkpoint to a verified engine."""

from __future__ import annotations

from pathlib import Path

import click

from edgellama.cli.given import MakeGiven, checkpoint_options, given_options
from edgellama.cli.override import BUNDLE_OPTION, Override, override_options
from edgellama.cli.progress import progress
from edgellama.cli.report import print_report
from edgellama.cli.verb import Verb
from edgellama.profiles.profile import load_profile


@click.command("build", cls=Verb)
@click.argument("profile")
@click.option("--model", help="Checkpoint folder or hub id; the profile's own by default.")
@checkpoint_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Default: engines/<profile>, or bundles/<profile>.",
)
@override_options
@given_options
@BUNDLE_OPTION
@click.option("--force", is_flag=True, help="Build even when nothing has changed.")
def command(
    profile: str,
    model: str | None,
    adapter: str | None,
    exact: bool,
    out: Path | None,
    override: Override,
    given: MakeGiven,
    bundle: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Build the engine of PROFILE, a shipped name or the path of a .toml file.

    Scales that the precision needs are measured first and kept beside the engine, in OUT.scales.
    """
    wanted = override.apply(load_profile(profile))  # before what is slow: fails at once
    directory = out or Path("bundles" if bundle else "engines") / wanted.name

    from edgellama.optimize.bundle import require_output
    from edgellama.optimize.tensorrt.preflight import require_backend

    require_output(wanted, directory, bundle=bundle)
    if wanted.build.is_tensorrt and not bundle:
        require_backend(wanted)

    from edgellama.export.resolve import resolve_adapter, resolve_model
    from edgellama.optimize.build import build_engine

    with progress() as show:
        checkpoint = resolve_model(model or wanted.model)
        report = build_engine(
            wanted,
            checkpoint,
            directory,
            adapter=None if adapter is None else resolve_adapter(adapter),
            given=given(exact=exact),
            progress=show,
            force=force,
            bundle=bundle,
        )
    print_report(report, as_json=as_json, noun="bundle" if bundle else "engine")
