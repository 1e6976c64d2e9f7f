"""The ENGINE argument: a directory, or the name of a profile for `engines/<name>`."""

from __future__ import annotations

from pathlib import Path

from edgellama.cli.failure import CliError
from edgellama.profiles.profile import profile_names

ENGINES = Path("engines")


def engine_directory(engine: str) -> Path:
    """Return the directory that ENGINE means; raises CliError when there is none."""
    directory = Path(engine)
    if directory.is_dir():
        return directory
    if engine not in profile_names():
        raise CliError(
            f"engine {engine!r} is neither a directory nor a profile; profiles: "
            f"{', '.join(profile_names())}"
        )
    directory = ENGINES / engine
    if not directory.is_dir():
        raise CliError(
            f"profile {engine} has no engine at {directory}; make it with: edgellama build {engine}"
        )
    return directory
