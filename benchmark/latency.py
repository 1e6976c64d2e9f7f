"""Latency of an engine in this process, beside what the machine can do at best.

Request cells go through the whole engine; step cells run single decode steps of the backend at a
context that no prompt had to fill. Cells take turns, round by round, and before each the ceilings
are measured: a share compares two figures of the same second.
"""

from __future__ import annotations

import math
import random
import resource
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from edgellama.benchmark.affordable import affordable
from edgellama.benchmark.ceiling_meter import CeilingMeter, Ceilings
from edgellama.benchmark.latency_grid import Grid, MeasurementError, grid_of
from edgellama.benchmark.machine_watch import MachineWatch
from edgellama.benchmark.request_cell import RequestCell
from edgellama.benchmark.series import series
from edgellama.benchmark.step_cell import StepCell
from edgellama.runtime.engine import Engine
from edgellama.runtime.load import load_backend
from edgellama.runtime.manifest import Manifest, check_files, read_manifest
from edgellama.runtime.text import TextCodec

SEED = 2026


class Report(Protocol):
    """Takes the name of a stage, what is done of it, and how much there is."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Show it."""


def measure_latency(
    directory: Path,
    *,
    prompts: tuple[int, ...] | None = None,
    rows: tuple[int, ...] | None = None,
    contexts: tuple[int, ...] | None = None,
    output_tokens: int | None = None,
    rounds: int = 5,
    minutes: float | None = None,
    threads: int | None = None,
    ceilings: bool = True,
    progress: Report,
) -> dict[str, Any]:
    """Load the engine and measure the grid; greedy, stop ids ignored, random prompts.

    What is None is taken from the profile (`grid_of`). A first round warms up; where repeating its
    longest cells would take more than `minutes`, they keep that one. `ceilings` False leaves the
    shares out.
    Raises MeasurementError, before anything is loaded, when the engine has no room for the grid,
    and for an engine on a GPU with ceilings: those of the GPU are check `cuda` of verify-gpu.
    """
    manifest = read_manifest(directory)
    grid = grid_of(
        manifest,
        prompts=prompts,
        rows=rows,
        contexts=contexts,
        output_tokens=output_tokens,
        rounds=rounds,
    )
    device = manifest.profile.device
    if ceilings and device.kind != "cpu":
        raise MeasurementError(
            "device.kind is 'gpu'; the ceilings of a GPU are measured by `edgellama verify-gpu`; "
            "leave them out here with --no-ceilings"
        )
    count = threads or device.threads
    check_files(directory, manifest)
    watch = MachineWatch()
    began = time.perf_counter()
    codec = TextCodec.load(directory)
    backend = load_backend(directory, manifest, threads=threads)
    load_seconds = time.perf_counter() - began
    with ExitStack() as owned:
        engine = owned.enter_context(Engine(backend, codec, manifest.profile.limits, manifest))
        meter = None
        if ceilings:
            assert count is not None, "a CPU profile has threads"
            meter = owned.enter_context(CeilingMeter(count))
        draw = random.Random(SEED)
        requests = [
            RequestCell(engine, prompt, number, grid.output_tokens, draw)
            for prompt in grid.prompts
            for number in grid.rows
        ]
        steps = [
            StepCell(backend, manifest, context, number)
            for context in grid.contexts
            for number in grid.rows
        ]
        seen = _run([*requests, *steps], grid, meter, minutes, progress)
        request_rows = [cell.row() for cell in requests]
        step_rows = [cell.row() for cell in steps]
    return {
        "kind": "latency",
        "engine": str(directory),
        "profile": manifest.profile.name,
        "model": {"source": manifest.source, **_model_facts(manifest)},
        "precision": asdict(manifest.profile.precision),
        "threads": count,
        "rounds": rounds,
        "seed": SEED,
        "load_seconds": round(load_seconds, 4),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "device_memory_bytes": None,
        "energy_j_per_token": None,
        "ceilings": _ceiling_facts(seen, count),
        "requests": request_rows,
        "steps": step_rows,
        "environment": watch.facts(),
    }


def _run(
    cells: list[RequestCell | StepCell],
    grid: Grid,
    meter: CeilingMeter | None,
    minutes: float | None,
    report: Report,
) -> list[Ceilings]:
    """Run every cell in every round; return the ceilings beside the rounds that are kept.

    The first round warms up. It is kept of the cells that there is no time to repeat.
    """
    total = (grid.rounds + 1) * len(cells)
    done = 0
    kept: dict[int, list[Ceilings]] = {place: [] for place in range(len(cells))}

    def measure(place: int) -> float:
        nonlocal done
        report("measure", done, total)
        began = time.perf_counter()
        best = None if meter is None else meter.measure(cells[place].bytes)
        cells[place].run(best)
        if best is not None:
            kept[place].append(best)
        done += 1
        return time.perf_counter() - began

    first = {place: measure(place) for place in kept}
    left = math.inf if minutes is None else 60 * minutes - sum(first.values())
    repeated = sorted(affordable(first, grid.rounds, left))
    total = done + grid.rounds * len(repeated)
    for place in repeated:
        cells[place].forget()
        kept[place].clear()
    for _ in range(grid.rounds):
        for place in repeated:
            measure(place)
    report("measure", total, total)
    return [best for each in kept.values() for best in each]


def _ceiling_facts(seen: list[Ceilings], threads: int | None) -> dict[str, Any] | None:
    """Return the ceilings over all cells of the run."""
    if not seen:
        return None
    kinds = seen[0].matrix_gops
    matrix = {kind: series([each.matrix_gops[kind] for each in seen]) for kind in kinds}
    used = [each.matrix_used for each in seen]
    return {
        "read_gb_s": series([each.read_gb_s for each in seen]),
        "matrix_gops": matrix,
        "matrix_used": max(sorted(set(used)), key=used.count),
        "source": f"measured beside every cell, {threads} threads",
    }


def _model_facts(manifest: Manifest) -> dict[str, Any]:
    model = manifest.model
    return {
        "parameters": model.num_parameters,
        "layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "vocab_size": model.vocab_size,
    }
