"""A virtual environment for another system: made once in a cache folder, with pinned packages."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Report = Callable[[str, int, int], None]
_COMPLETE = ".complete"
# Characters of the output of a failed command that are quoted.
TAIL = 2000


class PeerError(RuntimeError):
    """Another system could not be installed, converted for, or run."""


@dataclass(frozen=True)
class Packages:
    """What an environment holds: pip's requirements, what is taken out again, variables for pip."""

    name: str
    requirements: tuple[str, ...]
    removed: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


def peer_python(packages: Packages | None, cache: Path, report: Report) -> str:
    """Return the interpreter of an environment under `cache`, making it at first use.

    None is this very environment. An environment that was made with other requirements is made
    anew. Raises PeerError with the end of pip's output.
    """
    if packages is None:
        return sys.executable
    folder = cache / packages.name
    python, done = folder / "bin" / "python", folder / _COMPLETE
    wanted = repr(packages)
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return str(python)
    stage = f"install {packages.name}"
    report(stage, 0, 1)
    venv.create(folder, with_pip=True, clear=True)
    variables = {**os.environ, **packages.variables}
    pip = [str(python), "-m", "pip"]
    run_quoted(stage, [*pip, "install", "-q", *packages.requirements], variables)
    if packages.removed:
        run_quoted(stage, [*pip, "uninstall", "-q", "-y", *packages.removed], variables)
    done.write_text(wanted, encoding="utf-8")
    report(stage, 1, 1)
    return str(python)


def run_quoted(what: str, command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Run a command to its end; raises PeerError that quotes the end of its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if done.returncode:
        output = (done.stdout + done.stderr).strip()[-TAIL:]
        raise PeerError(f"{what} ended with {done.returncode}: {output}")
