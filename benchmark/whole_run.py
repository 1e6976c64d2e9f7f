"""One run of everything about an engine: what a report and a later check are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgellama.benchmark.environment import environment
from edgellama.benchmark.grpc_tax import TaxPlan
from edgellama.benchmark.instruction_counts import count_instructions, require_valgrind
from edgellama.benchmark.latency import measure_latency
from edgellama.benchmark.lengths import Lengths
from edgellama.benchmark.rate_sweep import SweepPlan
from edgellama.benchmark.report.document import SCHEMA_VERSION
from edgellama.benchmark.serving import measure_serving
from edgellama.runtime.manifest import Manifest, read_manifest

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RunPlan:
    """What a run measures: `rounds` of latency within `minutes`, `sweep` and `lengths` of serving,
    and whether instructions are counted and the machine's ceilings measured."""

    rounds: int
    minutes: float
    sweep: SweepPlan
    lengths: Lengths
    counts: bool = True
    ceilings: bool = True


def measure_run(
    directory: Path,
    plan: RunPlan,
    *,
    command: str,
    peers: Mapping[str, Any] | None = None,
    progress: Report,
) -> dict[str, Any]:
    """Measure an engine in this process, then served by one of its own; returns the document of
    kind "run".

    The bounds of a good request are the profile's, the accuracy is what the build measured, and
    `peers` a document of `bench peers`. Raises CountError before anything is measured where
    valgrind is missing, and what the parts raise.
    """
    if plan.counts:
        require_valgrind()
    manifest = read_manifest(directory)
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    latency = measure_latency(
        directory,
        rounds=plan.rounds,
        minutes=plan.minutes,
        ceilings=plan.ceilings,
        progress=progress,
    )
    serve = measure_serving(
        target=None,
        engine=directory,
        lengths=plan.lengths,
        slo=manifest.profile.slo,
        plan=plan.sweep,
        tax=TaxPlan(),
        progress=progress,
    )
    counts = None
    if plan.counts:
        progress("count instructions", 0, 0)
        counts = count_instructions(directory)
    return {
        "kind": "run",
        "schema_version": SCHEMA_VERSION,
        "engine": str(directory),
        "profile": manifest.profile.name,
        "when": when,
        "command": command,
        "environment": environment(),
        "latency": latency,
        "serve": serve,
        "peers": peers,
        "counts": counts,
        "accuracy": _accuracy(manifest),
    }


def _accuracy(manifest: Manifest) -> dict[str, Any] | None:
    """Return what the build measured of the engine beside its checkpoint."""
    found = manifest.verify.get("accuracy")
    if not found:
        return None
    return {"precision": manifest.profile.precision.weights, **found}
