"""What a build made, for `engine.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# Symbolic axis -> its smallest, most frequent and largest size.
Axes = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Kept:
    """A file that a build keeps beside the plan, or the reason why it does not; one of the two."""

    file: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        assert (self.file is None) != (self.reason is None), self


@dataclass(frozen=True)
class PlanReport:
    """One plan: with what it was built, how long it took, and what is in it.

    `driver` is CUDA's version on the GPU that it was built on, None where it needed no GPU;
    `seconds` are by phase; `layers` are the network's, by type; `knobs` those that differ from the
    library's own choice; `timing_cache_bytes` its sizes before and after.
    """

    backend: str
    version: str
    compute_capability: str
    driver: str | None
    seconds: Mapping[str, float]
    plan_bytes: int
    layers: Mapping[str, int]
    optimization_profiles: Mapping[str, Axes]
    knobs: Mapping[str, object]
    timing_cache: Kept
    timing_cache_bytes: tuple[int, int]
    inspector: Kept
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def report_from_dict(raw: Mapping[str, Any]) -> PlanReport:
    """Read the JSON form back."""
    values = dict(raw)
    for key in ("timing_cache", "inspector"):
        values[key] = Kept(**values[key])
    values["warnings"] = tuple(values["warnings"])
    before, after = values["timing_cache_bytes"]
    values["timing_cache_bytes"] = (before, after)
    values["optimization_profiles"] = {
        name: {axis: (low, best, high) for axis, (low, best, high) in axes.items()}
        for name, axes in values["optimization_profiles"].items()
    }
    return PlanReport(**values)
