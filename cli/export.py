"""`edgellama export`: a checkpoint to a portable ONNX model."""

from __future__ import annotations

from pathlib import Path

import click

from edgellama.cli.given import MakeGiven, checkpoint_options, given_options
from edgellama.cli.override import Override, override_options
from edgellama.cli.progress import progress
from edgellama.cli.size import size
from edgellama.cli.verb import Verb, print_json
from edgellama.profiles.profile import load_profile

DTYPES = ("float32", "float16", "bfloat16")


@click.command("export", cls=Verb)
@click.argument("model")
@checkpoint_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
    show_default=True,
    help="What the graph computes in.",
)
@click.option("--graph-only", is_flag=True, help="No weights: config.json is enough.")
@click.option("--profile", help="Precision and calibration of a profile; floats by default.")
@override_options
@given_options
def command(
    model: str,
    adapter: str | None,
    exact: bool,
    out: Path,
    dtype: str,
    graph_only: bool,
    profile: str | None,
    override: Override,
    given: MakeGiven,
    as_json: bool,
) -> None:
    """Export MODEL, a checkpoint folder, a hub id or `tiny`, to portable ONNX.

    Every precision uses standard operators only. Scales that it needs are measured first and kept
    beside the model, in OUT.scales.
    """
    wanted = None if profile is None else override.apply(load_profile(profile))
    if graph_only and (wanted or adapter or override != Override()):
        raise click.UsageError(
            "--graph-only writes no weights, so it takes no adapter and no precision; leave one out"
        )

    from edgellama.export.resolve import resolve_adapter, resolve_model
    from edgellama.export.to_onnx import export_portable
    from edgellama.optimize.portable import export_model, portable_profile
    from edgellama.profiles.model import read_model_config

    with progress() as show:
        folder = resolve_model(model, config_only=graph_only)
        if graph_only:
            report = export_portable(folder, out, dtype=dtype, progress=show, graph_only=True)
        else:
            if wanted is None:
                wanted = override.apply(portable_profile(read_model_config(folder)))
            report = export_model(
                folder,
                out,
                wanted,
                dtype=dtype,
                adapter=None if adapter is None else resolve_adapter(adapter),
                given=given(exact=exact),
                progress=show,
            )
    if as_json:
        print_json(report.as_dict())
        return
    click.echo(f"model        {report.model} (exported in {report.seconds:.1f} s)")
    click.echo(f"dtype        {report.dtype}")
    click.echo(f"size         {size(report.bytes)}")
    click.echo(f"peak memory  {size(report.peak_rss_bytes)}")
