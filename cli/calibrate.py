"""`edgellama calibrate`: a checkpoint and text to scales, to be reused by builds and shared."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import click

from edgellama.cli.given import checkpoint_options
from edgellama.cli.override import Override, override_options
from edgellama.cli.progress import progress
from edgellama.cli.size import size
from edgellama.cli.verb import Verb, print_json
from edgellama.profiles.profile import AWQ_METHODS, KV_GRANULARITIES, Profile, load_profile


def _changed(profile: Profile, **options: int | str | None) -> Profile:
    """Return the profile with the calibration options that were given; raises ProfileError."""
    given = {name: value for name, value in options.items() if value is not None}
    return replace(profile, calibration=replace(profile.calibration, **given))  # type: ignore[arg-type]


@click.command("calibrate", cls=Verb)
@click.argument("profile")
@click.option("--model", help="Checkpoint folder or hub id; the profile's own by default.")
@checkpoint_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option(
    "--text",
    type=click.Path(path_type=Path, exists=True),
    help="Text, JSONL or a folder of them; a built-in text by default.",
)
@click.option("--split", help="What separates the documents of a text file.")
@click.option("--tokens", type=int, help="Tokens to read.")
@click.option("--length", type=int, help="Tokens a sequence has at most.")
@click.option("--seed", type=int, help="Chooses the documents.")
@click.option("--awq", type=click.Choice(AWQ_METHODS), help="modelopt's search for int4_awq.")
@click.option("--kv-scales", type=click.Choice(KV_GRANULARITIES), help="What a cache scale covers.")
@override_options
def command(
    profile: str,
    model: str | None,
    adapter: str | None,
    exact: bool,
    out: Path,
    text: Path | None,
    split: str | None,
    tokens: int | None,
    length: int | None,
    seed: int | None,
    awq: str | None,
    kv_scales: str | None,
    override: Override,
    as_json: bool,
) -> None:
    """Measure the scales that PROFILE's precisions need, layer by layer, and write them to OUT.

    A run that is stopped goes on at the layer it had reached when it is started again.
    """
    if split is not None and text is None:
        raise click.UsageError("--split needs --text: the built-in text is split already")
    wanted = override.apply(load_profile(profile))  # before the slow imports: fails at once
    wanted = _changed(wanted, tokens=tokens, length=length, seed=seed, awq=awq, kv=kv_scales)

    from edgellama.calibration.calibrate import STAGE, calibrated_scales
    from edgellama.calibration.recipe import recipe_of
    from edgellama.calibration.scale_files import read_record
    from edgellama.export.peak_memory import peak_rss_bytes
    from edgellama.export.resolve import resolve_adapter, resolve_model
    from edgellama.optimize.build import read_checkpoint
    from edgellama.optimize.portable import read_codec
    from edgellama.optimize.quantization import Given

    started = time.monotonic()
    ran = False
    with progress() as show:

        def report(stage: str, done: int, total: int) -> None:
            nonlocal ran
            ran = ran or stage == STAGE
            show(stage, done, total)

        merged = None if adapter is None else resolve_adapter(adapter)
        source = resolve_model(model or wanted.model)
        checkpoint = read_checkpoint(source, merged, Given(exact=exact))
        recipe_of(wanted, checkpoint.model)  # a profile that needs no scales fails here
        codec = read_codec(checkpoint.folder, checkpoint.adapter)
        calibrated_scales(checkpoint, codec, wanted, text, out, report, split=split)
    record = read_record(out)
    document = {
        "scales": str(out),
        "model": record["model"]["name"],
        "recipe": record["recipe"],
        "text": record["text"],
        "bytes": sum(path.stat().st_size for path in out.iterdir()),
        "seconds": round(time.monotonic() - started, 3),
        "peak_rss_bytes": peak_rss_bytes(),
        "skipped": not ran,
    }
    if as_json:
        print_json(document)
        return
    used, asked = record["text"]["tokens"], record["text"]["requested_tokens"]
    done = "unchanged" if not ran else f"calibrated in {document['seconds']:.1f} s"
    click.echo(f"scales       {out} ({done})")
    click.echo(f"model        {document['model']}")
    click.echo(f"precision    {_precision(record['recipe'])}")
    short = f"; {asked} were asked for, the text has no more" if used < asked else ""
    click.echo(f"text         {record['text']['source']}, {used} tokens{short}")
    click.echo(f"size         {size(document['bytes'])}")
    click.echo(f"peak memory  {size(document['peak_rss_bytes'])}")


def _precision(recipe: dict[str, str | None]) -> str:
    parts = []
    if recipe["weights"] is not None:
        method = f" ({recipe['awq']}, block {recipe['block_size']})" if recipe["awq"] else ""
        parts.append(f"weights {recipe['weights']}{method}")
    if recipe["kv"] is not None:
        parts.append(f"cache {recipe['kv']} (a scale a {recipe['granularity']})")
    return ", ".join(parts)
