"""`edgellama bench export`: the export of one checkpoint beside other exporters."""

from __future__ import annotations

from pathlib import Path

import click

from edgellama.cli.progress import progress
from edgellama.cli.size import size
from edgellama.cli.verb import Verb, print_json

NAMES = (
    "edgellama",
    "optimum-onnx",
    "onnxruntime-genai",
    "from_pretrained + torch.onnx.export",
    "cp",
)


@click.command("export", cls=Verb)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--cache", type=click.Path(path_type=Path), required=True, help="Scratch folder.")
@click.option("--exporter", "names", type=click.Choice(NAMES), multiple=True, help="Default: all.")
@click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True)
def export(model: Path, cache: Path, names: tuple[str, ...], repeats: int, as_json: bool) -> None:
    """Export MODEL, a checkpoint folder, with this and other exporters: seconds, peak memory.

    The others are installed into environments of their own under --cache, which keeps them.
    """
    from edgellama.benchmark.export_peers import measure_exports

    if not model.is_dir():
        raise NotADirectoryError(f"MODEL {model} is not a checkpoint folder")
    with progress() as report:
        result = measure_exports(
            model.resolve(), cache, names=names or NAMES, repeats=repeats, report=report
        )
    if as_json:
        print_json(result)
        return
    for row in result["rows"]:
        label = f"{row['exporter']} {row['precision']}"
        if "error" in row:
            click.echo(f"{label:<42} failed: {row['error'].strip().splitlines()[-1]}")
            continue
        ratio = ""
        if "peak_rss_ratio" in row:
            ratio = f"  x{row['peak_rss_ratio']:.2f} memory  x{row['seconds_ratio']:.2f} time"
        click.echo(
            f"{label:<42} {row['seconds']:>7.1f} s  {size(row['peak_rss_bytes'])} peak"
            f"  {size(row['bytes'])} written{ratio}"
        )
