"""Where results of earlier builds are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Return the folder of one kind of results: `$XDG_CACHE_HOME` or `~/.cache`, then edgellama."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgellama" / kind
