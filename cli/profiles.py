"""`edgellama profiles`: the device profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from edgellama.cli.verb import Verb, print_json
from edgellama.profiles.profile import Profile, load_profile, profile_names


@click.group("profiles")
def command() -> None:
    """Look at the device profiles."""


@command.command("list", cls=Verb)
def list_profiles(as_json: bool) -> None:
    """List the shipped profiles: target, device, weights, and what each is for."""
    profiles = [load_profile(name) for name in profile_names()]
    if as_json:
        print_json({"profiles": [profile.as_dict() for profile in profiles]})
        return
    rows = [_row(profile) for profile in profiles]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def _row(profile: Profile) -> tuple[str, ...]:
    gpu = profile.device.gpu
    device = f"cpu, {profile.device.threads} threads" if gpu is None else gpu.name
    build, weights = profile.build, profile.precision.weights
    return profile.name, build.target, device, weights, profile.description


@command.command("show", cls=Verb)
@click.argument("profile")
def show(profile: str, as_json: bool) -> None:
    """Show every value of PROFILE, a shipped name or the path of a .toml file."""
    loaded = load_profile(profile)
    if as_json:
        print_json(loaded.as_dict())
        return
    click.echo("\n".join(_as_text(loaded)))


@command.command("check", cls=Verb)
@click.argument("profiles", nargs=-1, required=True)
def check(profiles: tuple[str, ...], as_json: bool) -> None:
    """Check PROFILES: names or .toml files; the first error ends the command."""
    names = [load_profile(profile).name for profile in profiles]
    if as_json:
        print_json({"valid": names})
        return
    for name in names:
        click.echo(f"{name}: valid")


def _as_text(profile: Profile) -> list[str]:
    """Return a line a value; tables that a profile does not have are left out."""
    plain = profile.as_dict()
    lines = [f"{key:<16} {plain.pop(key)}" for key in ("name", "description", "model")]
    gpu = plain["device"].pop("gpu")
    for key, table in plain.items():
        if table is None or not _values(table):
            continue
        lines += [f"[{key}]", *_values(table)]
        if key == "device" and gpu is not None:
            lines += ["[device.gpu]", *_sourced(gpu)]
    return lines


def _values(table: Mapping[str, Any]) -> list[str]:
    return [f"  {name:<28}{value}" for name, value in table.items() if value is not None]


def _sourced(gpu: Mapping[str, Any]) -> list[str]:
    """Return each value of a GPU with the source of it below."""
    lines = []
    for name, value in gpu.items():
        if name != "sources":
            text = ", ".join(value) if isinstance(value, tuple) else value
            lines += [f"  {name:<28}{text}", f"  {'':<28}  from: {gpu['sources'][name]}"]
    return lines
