"""What a build made, for the command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class BuildReport:
    """What a build made or found unchanged; bytes, seconds, and this process's peak memory.

    `engine` is the folder of the engine, or of the bundle.
    """

    engine: Path
    seconds: float
    peak_rss_bytes: int
    bytes: int
    verify: dict[str, Any]
    skipped: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for `--json`."""
        return {**asdict(self), "engine": str(self.engine)}
