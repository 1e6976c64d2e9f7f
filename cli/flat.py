"""Nested values as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgellama.cli.figure import figure


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield `name = value` of a nested mapping, names joined by dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {figure(value)}"
