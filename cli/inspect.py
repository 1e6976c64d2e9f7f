"""`edgellama inspect`: what an engine directory holds, and whether it is intact."""

from __future__ import annotations

import click

from edgellama.cli.engine import engine_directory
from edgellama.cli.flat import flat
from edgellama.cli.size import size
from edgellama.cli.verb import Verb, print_json


@click.command("inspect", cls=Verb)
@click.argument("engine")
def command(engine: str, as_json: bool) -> None:
    """Show the manifest of ENGINE and check every file against it."""
    directory = engine_directory(engine)

    from edgellama.runtime.manifest import check_files, read_manifest

    manifest = read_manifest(directory)
    check_files(directory, manifest)
    if as_json:
        print_json({"engine": str(directory), "intact": True, **manifest.as_dict()})
        return
    model, precision, kv = manifest.model, manifest.profile.precision, manifest.kv
    rows = [
        ("engine", f"{directory}, intact"),
        ("profile", f"{manifest.profile.name}: {manifest.profile.description}"),
        (
            "model",
            f"{manifest.source}, {model.num_parameters / 1e6:.1f} M parameters, "
            f"{model.num_layers} layers x {model.hidden_size}, {model.vocab_size} tokens",
        ),
        (
            "precision",
            f"weights {precision.weights}, tables {precision.embedding}, KV {precision.kv}, "
            f"blocks of {precision.block_size}",
        ),
        (
            "KV cache",
            f"{kv.slots} slots x {kv.capacity} tokens x {kv.bytes_per_token} B = "
            f"{size(kv.slots * kv.capacity * kv.bytes_per_token)} {kv.dtype}",
        ),
        ("size", size(manifest.bytes)),
    ]
    rows += [("file", f"{name}: {size(item.bytes)}") for name, item in manifest.files.items()]
    for title in ("versions", "build", "verify"):
        rows += [(title, text) for text in flat(getattr(manifest, title))]
    for name, text in rows:
        click.echo(f"{name:<12} {text}")
