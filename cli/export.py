"""`edgellama export`: a checkpoint to a portable ONNX model."""

from __future__ import annotations

from pathlib import Path

import click

from edgellama.cli.progress import progress
from edgellama.cli.size import size
from edgellama.cli.verb import Verb, print_json

DTYPES = ("float32", "float16", "bfloat16")


@click.command("export", cls=Verb)
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True)
def command(model: str, out: Path, dtype: str, as_json: bool) -> None:
    """Export MODEL, a checkpoint folder, a hub id or `tiny`, to portable ONNX."""
    from edgellama.export.resolve import resolve_model
    from edgellama.export.to_onnx import export_portable

    with progress() as show:
        report = export_portable(resolve_model(model), out, dtype=dtype, progress=show)
    if as_json:
        print_json(report.as_dict())
        return
    click.echo(f"model        {report.model} (exported in {report.seconds:.1f} s)")
    click.echo(f"dtype        {report.dtype}")
    click.echo(f"size         {size(report.bytes)}")
    click.echo(f"peak memory  {size(report.peak_rss_bytes)}")
