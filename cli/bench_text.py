"""Lines for people that several measurements share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click


def print_environment(facts: Mapping[str, Any]) -> None:
    """Print where a measurement was made."""
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    click.echo(
        f"on {facts['cpu']}, {facts['cores']} cores, load {facts['load_average']}; {packages}"
    )
