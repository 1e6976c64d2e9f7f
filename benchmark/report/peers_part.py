"""The part of a run about other systems on the same work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgellama.benchmark.report.figures import Series, require_positive

# Kind of work -> the key that tells its cells apart, and how a cell is called.
CELLS = {
    "prefill": ("prompt_tokens", "prefill, {} tokens"),
    "decode": ("context", "decode at context {}"),
    "requests": ("concurrency", "{} requests at once"),
}


@dataclass(frozen=True)
class System:
    """One system and how it was set; `error` says why it could not be measured."""

    system: str
    version: str | None
    settings: Any
    in_flight: bool | None
    error: str | None
    load_seconds: float | None


@dataclass(frozen=True)
class PeerRow:
    """One system on one cell of work; a row has a value or says why there is none."""

    work: str
    prompt_tokens: int | None
    context: int | None
    concurrency: int | None
    system: str
    unit: str
    value: Series | None
    ratio_to_ours: Series | None
    error: str | None

    def __post_init__(self) -> None:
        if self.work not in CELLS:
            raise ValueError(f"has work {self.work!r}; it must be one of {', '.join(CELLS)}")
        key = CELLS[self.work][0]
        if self.size is None:
            raise ValueError(f"has work {self.work!r} and no {key}")
        if self.value is None and self.error is None:
            raise ValueError("has neither a value nor an error")
        require_positive(ratio_to_ours=self.ratio_to_ours)

    @property
    def size(self) -> int | None:
        """Tokens of the prompt or context, or requests at once."""
        sizes = {"prefill": self.prompt_tokens, "decode": self.context}
        return sizes.get(self.work, self.concurrency)

    @property
    def cell(self) -> str:
        """The work in words; rows of one cell are compared with each other."""
        name = CELLS[self.work][1].format(f"{self.size:,}")
        return "1 request" if name == "1 requests at once" else name


@dataclass(frozen=True)
class PeersPart:
    """What `edgellama bench peers` measured."""

    size: str | None
    model: Any
    rounds: int | None
    minutes: float | None
    seed: int | None
    threads: int | None
    systems: tuple[System, ...]
    rows: tuple[PeerRow, ...]
    environment: dict[str, Any] | None

    @property
    def by_cell(self) -> dict[str, list[PeerRow]]:
        """Rows by cell, in the order of the document."""
        found: dict[str, list[PeerRow]] = {}
        for row in self.rows:
            found.setdefault(row.cell, []).append(row)
        return found
