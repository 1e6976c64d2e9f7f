"""How a check ended, and the exceptions by which it says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
STATES = (PASSED, FAILED, SKIPPED)


@dataclass(frozen=True)
class Outcome:
    """The end of one check: `reason` is empty only where it passed, `log` the end of what the
    process of a failed one wrote, `subject` "" for the whole machine."""

    check: str
    subject: str
    state: str
    reason: str = ""
    seconds: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)
    log: str = ""

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"state is {self.state!r}; it must be one of {', '.join(STATES)}")
        if (self.state == PASSED) == bool(self.reason):
            raise ValueError(f"{self.check}: state {self.state} with reason {self.reason!r}")


class CheckSkipped(Exception):
    """What the check needs is not here; `figures` are what it found all the same."""

    def __init__(self, reason: str, figures: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.figures = dict(figures or {})


class CheckFailed(Exception):
    """What was to be proved is not so; `figures` are what was measured until then."""

    def __init__(self, reason: str, figures: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.figures = dict(figures or {})
