"""`edgellama bench peers`: this engine beside other systems, on the same model and work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgellama.cli.bench_text import print_environment
from edgellama.cli.chosen import chosen
from edgellama.cli.file_verb import STANDARD_OUTPUT, FileVerb, require_writable, write_json
from edgellama.cli.given import PATH
from edgellama.cli.progress import progress
from edgellama.cli.table import table

CACHE = Path("~/.cache/edgellama/peers")
_SIZES = ("tiny", "1b")
# Kind of work -> the key of its size, and how a cell is called.
_CELLS = {
    "prefill": ("prompt_tokens", "prefill {}"),
    "decode": ("context", "decode at {}"),
    "requests": ("concurrency", "{} requests"),
}
_HEADS = ("work", "system", "tokens/s", "n", "spread", "to ours", "low", "high")


@click.command("peers", cls=FileVerb)
@click.option("--size", type=click.Choice(_SIZES), required=True, help="Of the random weights.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    default=35.0,
    show_default=True,
    help="Shared by all systems; what would take longer is left out or not repeated.",
)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--systems", help="Names with commas between them; all by default.")
@click.option("--cache", type=PATH, default=CACHE, show_default=True, help="Kept between runs.")
def peers(
    size: str,
    rounds: int,
    minutes: float,
    threads: int,
    seed: int,
    systems: str | None,
    cache: Path,
    as_json: Path | None,
) -> None:
    """Measure this engine and others: prefill, decode, and requests that come together.

    The others are installed into environments of their own under --cache, which keeps them and the
    models that were converted for them. One that fails is a line with the reason.
    """
    require_writable(as_json)

    from edgellama.benchmark.peers import measure_peers

    names = _names(systems)
    with progress() as report:
        result = measure_peers(
            size,
            cache.expanduser(),
            rounds=rounds,
            seed=seed,
            threads=threads,
            minutes=minutes,
            systems=names,
            progress=report,
        )
    if as_json is not None:
        write_json(result, as_json)
    if as_json != STANDARD_OUTPUT:
        print_peers(result)


def _names(given: str | None) -> tuple[str, ...]:
    """Return the systems in the order that is always theirs. Raises CliError for an unknown one."""
    from edgellama.benchmark.peer_systems import SYSTEMS

    if given is None:
        return tuple(SYSTEMS)
    return chosen("--systems", given, SYSTEMS)


def print_peers(result: Mapping[str, Any]) -> None:
    """Print the document for people: a line a row, then the systems that could not be measured."""
    click.echo(table(_HEADS, list(map(_row, result["rows"]))))
    click.echo("")
    for system in result["systems"]:
        if system["error"] is None:
            click.echo(f"{system['system']} {system['version']}: {_settings(system)}")
    for system in result["systems"]:
        if system["error"] is not None:
            click.echo(f"{system['system']} failed: {_last_line(system['error'])}")
    for row in result["rows"]:
        if "error" in row:
            click.echo(f"{_cell(row)}: {_last_line(row['error'])}")
    click.echo(
        f"{result['model']['name']}, {result['rounds']} rounds within {result['minutes']:g} min, "
        f"{result['threads']} threads, seed {result['seed']}"
    )
    print_environment(result["environment"])
    for warning in result["environment"]["warnings"]:
        click.echo(f"warning: {warning}")


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    labels = (_cell(row), row["system"])
    if "error" in row:
        return (*labels, "failed", "", "", "", "", "")
    value, ratio = row["value"], row.get("ratio_to_ours")
    spread = f"{100 * value['spread']:.0f} %" if value["n"] > 1 else ""
    measured = (*labels, f"{value['median']:.1f}", str(value["n"]), spread)
    if ratio is None:
        return (*measured, "", "", "")
    return (*measured, *(f"x{ratio[name]:.2f}" for name in ("median", "low", "high")))


def _cell(row: Mapping[str, Any]) -> str:
    key, text = _CELLS[row["work"]]
    return text.format(row[key])


def _settings(system: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in system["settings"].items())


def _last_line(error: str) -> str:
    """Return the beginning of an error and, of an output that it quotes, the last line."""
    lines = error.strip().splitlines()
    return lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1].strip()}"
