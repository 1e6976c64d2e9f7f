"""The figures of in-flight batching of an engine, in this process and without a server.

The parts that have rounds take turns, so that every ratio compares two figures of the same seconds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from edgellama.benchmark.engine_stream import fixed_length, running
from edgellama.benchmark.interference_part import InterferencePart
from edgellama.benchmark.latency_grid import MeasurementError
from edgellama.benchmark.long_prompt import lacking_room
from edgellama.benchmark.machine_watch import MachineWatch
from edgellama.benchmark.memory_part import MemoryPart
from edgellama.benchmark.prefix_part import PrefixPart, lacking_prefix_room
from edgellama.benchmark.shares_part import SharesPart, lacking_share_room
from edgellama.benchmark.weight_forms import weight_forms
from edgellama.runtime.engine import Engine
from edgellama.runtime.load import load_backend
from edgellama.runtime.manifest import Manifest, check_files, read_manifest
from edgellama.runtime.text import TextCodec

Report = Callable[[str, int, int], None]

PARTS = ("interference", "prefix", "shares", "memory", "forms")
# Processes whose memory is measured, at most: each loads the engine, and they differ little.
_MEMORY_ROUNDS = 3
_MEMORY_MINUTES = 0.1  # of the minutes, for all of them but the first


class _Part(Protocol):
    def run(self) -> None:
        """Run one round."""

    def row(self) -> dict[str, Any]:
        """Return the figures of all rounds."""


def measure_batching(
    directory: Path,
    *,
    parts: Sequence[str] | None = None,
    rounds: int = 5,
    minutes: float = 10.0,
    seed: int = 0,
    threads: int | None = None,
    progress: Report,
) -> dict[str, Any]:
    """Return the document of kind "batching".

    `parts` None takes all of PARTS that the engine has room for and says under `left_out` why not
    the others. `rounds` of each, fewer where the next would end after `minutes`, one at least.
    Raises MeasurementError, before anything is loaded, for a part that was asked for and cannot be
    measured, and where one fails.
    """
    manifest = read_manifest(directory)
    left_out = _left_out(manifest)
    for part in parts or ():
        if part in left_out:
            raise MeasurementError(f"{part} cannot be measured: {left_out[part]}; leave it out")
    wanted = [part for part in PARTS if part in (parts or PARTS) and part not in left_out]
    if not wanted:
        reasons = "; ".join(f"{part}: {reason}" for part, reason in left_out.items())
        raise MeasurementError(f"nothing can be measured of {directory}: {reasons}")
    check_files(directory, manifest)
    watch, began = MachineWatch(), time.perf_counter()
    found: dict[str, Any] = dict.fromkeys(PARTS)
    if "memory" in wanted:  # first: this process holds no engine yet, the machine may lack room
        memory = MemoryPart(directory, manifest, threads)
        found["memory"] = _memory(memory, rounds, minutes, progress)
    done = 0
    if set(wanted) - {"memory"}:
        progress("load", 0, 0)
        codec = TextCodec.load(directory)
        backend = load_backend(directory, manifest, threads=threads)
        limits = manifest.profile.limits
        with Engine(backend, codec, limits, manifest) as engine:
            made = _parts(engine, limits.slots, wanted, seed)
            if made:
                _warm_up(engine, limits.slots, limits.prefill_chunk, seed)
                end = began + 60 * minutes
                done = _run(list(made.values()), rounds, end, progress)
            found |= {name: part.row() for name, part in made.items()}
            if "forms" in wanted:
                found["forms"] = weight_forms(backend, manifest)
    return {
        "kind": "batching",
        "engine": str(directory),
        "profile": manifest.profile.name,
        "slots": manifest.profile.limits.slots,
        "capacity": manifest.profile.limits.capacity,
        "precision": asdict(manifest.profile.precision),
        "threads": threads or manifest.profile.device.threads,
        "parts": wanted,
        "rounds": rounds,
        "rounds_done": done,
        "minutes": minutes,
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 3),
        **found,
        "left_out": {name: left_out[name] for name in PARTS if name in left_out},
        "environment": watch.facts(),
    }


def _left_out(manifest: Manifest) -> dict[str, str]:
    """Return the parts that cannot be measured of an engine, and why."""
    limits = manifest.profile.limits
    slots, capacity = limits.slots, limits.capacity
    memory = forms = None
    if manifest.profile.device.kind != "cpu":
        memory = "device.kind is 'gpu'; the memory of a GPU is not measured"
    if manifest.batch_graph is None:
        forms = "the engine has one form of the weights; precision.batch_weights adds a second"
    reasons = {
        "interference": lacking_room(slots, capacity),
        "prefix": lacking_prefix_room(capacity),
        "shares": lacking_share_room(slots, capacity),
        "memory": memory,
        "forms": forms,
    }
    return {part: reason for part, reason in reasons.items() if reason is not None}


def _parts(engine: Engine, slots: int, wanted: Sequence[str], seed: int) -> dict[str, _Part]:
    """Return those that have rounds in the engine; each draws for itself, whatever else is run."""

    def draw(part: str) -> random.Random:
        return random.Random(f"{seed} {part}")

    makers: dict[str, Callable[[str], _Part]] = {
        "interference": lambda part: InterferencePart(engine, slots, draw(part)),
        "prefix": lambda part: PrefixPart(engine, draw(part)),
        "shares": lambda part: SharesPart(engine, slots, draw(part)),
    }
    return {part: make(part) for part, make in makers.items() if part in wanted}


def _warm_up(engine: Engine, slots: int, chunk: int, seed: int) -> None:
    """Let a prompt of two chunks enter beside a stream on every other slot, uncounted."""
    draw = random.Random(f"{seed} warm-up")
    ids = range(engine.manifest.model.vocab_size)
    long = max(1, min(chunk + 1, engine.capacity // 2))
    prompts = [draw.choices(ids, k=min(8, long)) for _ in range(slots - 1)]
    prompts.append(draw.choices(ids, k=long))
    with running(engine, [fixed_length(prompt, 2) for prompt in prompts]) as streams:
        for stream in streams:
            stream.complete()


def _run(parts: Sequence[_Part], rounds: int, end: float, report: Report) -> int:
    """Run rounds of all parts until `end` on the clock; returns how many."""
    longest = 0.0
    for done in range(rounds):
        began = time.perf_counter()
        if done and began + longest > end:
            return done
        for place, part in enumerate(parts):
            report("rounds", done * len(parts) + place, rounds * len(parts))
            part.run()
        longest = max(longest, time.perf_counter() - began)
    report("rounds", rounds * len(parts), rounds * len(parts))
    return rounds


def _memory(part: MemoryPart, rounds: int, minutes: float, report: Report) -> dict[str, Any]:
    """Measure in as many processes as there is time for."""
    most, begin = min(rounds, _MEMORY_ROUNDS), time.perf_counter()
    for done in range(most):
        spent = time.perf_counter() - begin
        if done and spent * (done + 1) / done > 60 * _MEMORY_MINUTES * minutes:
            break
        report("memory", done, most)
        part.run()
    report("memory", most, most)
    return part.row()
