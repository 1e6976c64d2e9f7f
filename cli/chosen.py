"""Names with commas between them, out of those that there are."""

from __future__ import annotations

from collections.abc import Collection

from edgellama.cli.failure import CliError


def chosen(option: str, given: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the names that are given, in the order of `known`; raises CliError for another."""
    wanted = given.split(",")
    for name in wanted:
        if name not in known:
            raise CliError(f"{option} has {name!r}; it must be one of {', '.join(known)}")
    return tuple(name for name in known if name in wanted)
