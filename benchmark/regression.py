"""Hold a run to an earlier one: which figures are worse by more than is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgellama.benchmark.figures import DocumentError, Figure, figures_of

LIMIT = 0.10
# What decides a count besides our code: with another of these it says nothing.
_COUNTED_WITH = ("python", "numpy", "tokenizers", "machine")


@dataclass(frozen=True)
class Comparison:
    """One figure in both runs; `now` is None where the new run lacks it, which fails too."""

    name: str
    before: Figure
    now: Figure | None
    limit: float

    @property
    def worsening(self) -> float | None:
        """How much worse it is, as a share; below 0 it is better."""
        return None if self.now is None else self.before.worsening(self.now)

    @property
    def has_failed(self) -> bool:
        """Whether it is missing, or worse by more than the limit."""
        return self.worsening is None or self.worsening > self.limit

    def as_dict(self) -> dict[str, Any]:
        """Return the form for `--json`."""
        return {
            "figure": self.name,
            "before": self.before.value,
            "now": None if self.now is None else self.now.value,
            "worsening": None if self.worsening is None else round(self.worsening, 4),
            "spread_before": self.before.spread,
            "spread_now": None if self.now is None else self.now.spread,
            "failed": self.has_failed,
        }


def compare(
    baseline: Mapping[str, Any], run: Mapping[str, Any], *, limit: float = LIMIT
) -> list[Comparison]:
    """Return every figure of the baseline beside that of the run, the worst first.

    Raises DocumentError when one has no figures, or when instructions were counted with other
    versions than those of the baseline.
    """
    before, now = figures_of(baseline, "the baseline"), figures_of(run, "the run")
    _require_same_versions(baseline, run)
    found = [Comparison(name, figure, now.get(name), limit) for name, figure in before.items()]
    return sorted(found, key=lambda each: (each.now is not None, -(each.worsening or 0.0)))


def _require_same_versions(baseline: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    counted, anew = _versions(baseline), _versions(run)
    if counted is None or anew is None:
        return
    for name in _COUNTED_WITH:
        if counted.get(name) != anew.get(name):
            raise DocumentError(
                f"the baseline's instructions were counted with {name} {counted.get(name)}, the "
                f"run's with {anew.get(name)}; such counts cannot be compared: count a new "
                "baseline with `edgellama bench count`"
            )


def _versions(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    counts = document if document.get("kind") == "counts" else document.get("counts")
    if not counts:
        return None
    versions: Mapping[str, Any] = counts["versions"]
    return versions
