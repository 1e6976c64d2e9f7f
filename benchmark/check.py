"""One check of a machine: what it proves, what it needs, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgellama.benchmark.gpu_facts import Facts
from edgellama.benchmark.outcome import PASSED, Outcome
from edgellama.benchmark.subject import Subject, subject_from_dict

Earlier = Mapping[tuple[str, str], Outcome]
"""What ended before, by the names of check and subject ("" for a check of the whole machine)."""

Need = Callable[[Facts, Subject | None, Earlier], str | None]
"""Returns why a check cannot be made on a machine, or None where it can."""


@dataclass(frozen=True)
class Check:
    """A row of the table of checks.

    `run` is "module:function", imported in a process of its own; it takes a Job and returns the
    figures. `seconds` is the limit of that process. One `per_engine` is made for every subject.
    """

    name: str
    proves: str
    run: str
    needs: tuple[Need, ...]
    seconds: float
    per_engine: bool = False

    def __post_init__(self) -> None:
        module, _, function = self.run.partition(":")
        if not module or not function:
            raise ValueError(f"check {self.name}: run is {self.run!r}; 'module:function' is needed")
        if self.seconds <= 0:
            raise ValueError(f"check {self.name}: seconds is {self.seconds}; it must be > 0")

    def lacking(self, facts: Facts, subject: Subject | None, earlier: Earlier) -> str | None:
        """Return the first need that is not met, in words."""
        for need in self.needs:
            reason = need(facts, subject, earlier)
            if reason is not None:
                return reason
        return None


@dataclass(frozen=True)
class Job:
    """What the process of a check is told: its subject, the scratch folder, and the figures of the
    checks of the whole machine that passed before, by name."""

    work: Path
    subject: Subject | None = None
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def engine(self) -> Subject:
        """The subject of a check that is made per engine."""
        assert self.subject is not None, "the check is not per engine"
        return self.subject

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "work": str(self.work),
            "subject": None if self.subject is None else self.subject.as_dict(),
            "figures": dict(self.figures),
        }


def job_from_dict(raw: Mapping[str, Any]) -> Job:
    """Read the JSON form back."""
    subject = None if raw["subject"] is None else subject_from_dict(raw["subject"])
    return Job(Path(raw["work"]), subject, raw["figures"])


def passed_figures(earlier: Earlier) -> dict[str, Mapping[str, Any]]:
    """Return the figures of the checks of the whole machine that passed."""
    return {
        name: outcome.figures
        for (name, subject), outcome in earlier.items()
        if not subject and outcome.state == PASSED
    }
