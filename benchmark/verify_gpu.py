"""Make every check of the table on this machine, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgellama.benchmark.check import Check, Job, passed_figures
from edgellama.benchmark.gpu_checks import CHECKS, MACHINE
from edgellama.benchmark.gpu_facts import Facts, facts_of
from edgellama.benchmark.gpu_subjects import Wish, subjects_of
from edgellama.benchmark.outcome import FAILED, PASSED, SKIPPED, STATES, Outcome
from edgellama.benchmark.run_check import run_check
from edgellama.benchmark.subject import Subject

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Verification:
    """How every check ended, in their order, and when they began."""

    checks: tuple[Check, ...]
    outcomes: tuple[Outcome, ...]
    began: str
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(outcome.state == FAILED for outcome in self.outcomes)

    @property
    def counts(self) -> dict[str, int]:
        """Outcomes of each state."""
        states = [outcome.state for outcome in self.outcomes]
        return {state: states.count(state) for state in STATES}

    @property
    def machine(self) -> Mapping[str, Any]:
        """What the first check found."""
        return self.outcomes[0].figures

    @property
    def summary(self) -> str:
        """One sentence for people."""
        counts = self.counts
        listed = ", ".join(f"{counts[state]} {state}" for state in STATES)
        # To know the machine proves nothing of an engine.
        if not any(o.state == PASSED and o.check != MACHINE for o in self.outcomes):
            return f"Nothing was proved on a device: {listed}."
        return f"On {self.machine['gpu']['name']}: {listed}."

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "summary": self.summary,
            "failed": self.failed,
            "counts": self.counts,
            "began": self.began,
            "seconds": self.seconds,
            "machine": dict(self.machine),
            "checks": [
                {**vars(outcome), "figures": dict(outcome.figures)} for outcome in self.outcomes
            ],
        }


def verify_gpu(
    wish: Wish,
    work: Path,
    *,
    progress: Report,
    limit: float | None = None,
    checks: Sequence[Check] = CHECKS,
) -> Verification:
    """Make the checks one after the other; one that fails or is killed does not stop the others.

    `work` is the scratch folder for bundles and engines; `limit` replaces the seconds that a check
    may take. The first of the table must say what the machine is. Raises what reading the wish
    does: ProfileError, EngineError, ValueError.
    """
    began, started = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.monotonic()
    if limit is not None:
        checks = [replace(check, seconds=limit) for check in checks]
    first, *others = checks
    progress(first.name, 0, 1)
    machine = run_check(first, Job(work))
    facts = facts_of(machine.figures) if machine.figures else unknown(machine)
    earlier = {(first.name, ""): machine}
    subjects = subjects_of(wish, facts)
    planned = [(check, each) for check in others for each in _subjects(check, subjects)]
    for number, (check, subject) in enumerate(planned):
        name = "" if subject is None else subject.name
        progress(f"{check.name} {name}".strip(), number, len(planned))
        earlier[check.name, name] = _make(check, subject, facts, earlier, work)
    progress("done", len(planned), len(planned))
    seconds = round(time.monotonic() - started, 3)
    return Verification(tuple(checks), tuple(earlier.values()), began, seconds)


def unknown(machine: Outcome) -> Facts:
    """Return the facts of a machine whose first check did not come to an end."""
    reason = f"check {machine.check} {machine.state}: {machine.reason}"
    return Facts(None, None, reason, {}, {}, frozenset())


def _subjects(check: Check, subjects: Sequence[Subject]) -> Sequence[Subject | None]:
    """Return what a check is made for; once for nothing where there is no engine to check."""
    return (subjects or [None]) if check.per_engine else [None]


def _make(
    check: Check,
    subject: Subject | None,
    facts: Facts,
    earlier: Mapping[tuple[str, str], Outcome],
    work: Path,
) -> Outcome:
    if check.per_engine and subject is None:
        unfit = (
            f"no shipped profile is for compute capability {facts.compute_capability}; name a "
            "profile for this GPU with --profile"
        )
        return Outcome(check.name, "", SKIPPED, facts.no_gpu or unfit)
    name = "" if subject is None else subject.name
    reason = check.lacking(facts, subject, earlier)
    if reason is not None:
        return Outcome(check.name, name, SKIPPED, reason)
    return run_check(check, Job(work, subject, passed_figures(earlier)))
