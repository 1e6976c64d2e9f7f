"""`edgellama profiles`: the device profiles."""

from __future__ import annotations

import click

from edgellama.cli.verb import Verb, print_json
from edgellama.profiles.profile import Profile, load_profile, profile_names


@click.group("profiles")
def command() -> None:
    """Look at the device profiles."""


@command.command("list", cls=Verb)
def list_profiles(as_json: bool) -> None:
    """List the shipped profiles."""
    profiles = [load_profile(name) for name in profile_names()]
    if as_json:
        print_json({"profiles": [profile.as_dict() for profile in profiles]})
        return
    for profile in profiles:
        click.echo(f"{profile.name:<12} {profile.description}")


@command.command("show", cls=Verb)
@click.argument("profile")
def show(profile: str, as_json: bool) -> None:
    """Show every value of PROFILE, a shipped name or the path of a .toml file."""
    loaded = load_profile(profile)
    if as_json:
        print_json(loaded.as_dict())
        return
    click.echo(_as_text(loaded))


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


def _as_text(profile: Profile) -> str:
    lines = []
    for key, value in profile.as_dict().items():
        if isinstance(value, dict):
            lines.append(f"[{key}]")
            lines += [f"  {name:<14} {item}" for name, item in value.items()]
        else:
            lines.append(f"{key:<16} {value}")
    return "\n".join(lines)
