"""Steps as a trace that chrome://tracing and ui.perfetto.dev open.

The format is the Trace Event Format's JSON object: complete events ("X") in microseconds, counters
("C") and names ("M").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from edgellama.runtime.step_record import StepRecord

_PROCESS, _ENGINE, _FIRST_SLOT = 1, 0, 1  # tracks: the engine's thread, then a slot each


def chrome_trace(steps: Sequence[StepRecord], name: str) -> dict[str, Any]:
    """Return the document: a track of steps and their parts, one a slot, and counters.

    `name` is what the process is called there.
    """
    zero = min((step.began for step in steps), default=0.0)
    events = [event for step in steps for event in _events(step, zero)]
    return {"displayTimeUnit": "ms", "traceEvents": [*_names(steps, name), *events]}


def _events(step: StepRecord, zero: float) -> Iterator[dict[str, Any]]:
    begin, choice = step.began - zero, step.choice
    what = {
        "step": step.index,
        "rows": len(choice.rows),
        "tokens": choice.tokens,
        "admitted": step.admitted,
        "cancelled": step.cancelled,
        "finished": step.finished,
        "copies": choice.copies,
        "drafted": choice.drafted,
        "accepted": step.accepted,
        "saves": choice.saves,
        "restores": choice.restores,
        "stalls": [stall.value for stall in choice.stalls],
    }
    yield _complete(f"step {step.index}", _ENGINE, begin, step.parts.total, what)
    at = begin
    for part, seconds in asdict(step.parts).items():
        yield _complete(part, _ENGINE, at, seconds, {})
        if part == "backend":
            for slot, request in choice.rows:
                yield _complete("decode", _FIRST_SLOT + slot, at, seconds, {"request": request})
            if (chunk := choice.chunk) is not None:
                where = {"request": chunk.request_id, "start": chunk.start}
                title = f"prompt, {chunk.tokens} tokens"
                yield _complete(title, _FIRST_SLOT + chunk.slot, at, seconds, where)
        at += seconds
    counts = {"running": choice.running, "waiting": choice.waiting}
    yield _event("C", "requests", begin, args=counts)


def _names(steps: Sequence[StepRecord], name: str) -> Iterator[dict[str, Any]]:
    slots = {slot for step in steps for slot, _ in step.choice.rows}
    slots |= {step.choice.chunk.slot for step in steps if step.choice.chunk is not None}
    yield _event("M", "process_name", 0.0, args={"name": name})
    tracks = [(_ENGINE, "engine"), *((_FIRST_SLOT + slot, f"slot {slot}") for slot in slots)]
    for track, title in sorted(tracks):
        yield _event("M", "thread_name", 0.0, tid=track, args={"name": title})
        yield _event("M", "thread_sort_index", 0.0, tid=track, args={"sort_index": track})


def _complete(
    name: str, track: int, begin: float, seconds: float, args: dict[str, Any]
) -> dict[str, Any]:
    return _event("X", name, begin, tid=track, dur=round(seconds * 1e6, 3), args=args)


def _event(kind: str, name: str, begin: float, **fields: Any) -> dict[str, Any]:
    when = round(begin * 1e6, 3)
    return {"ph": kind, "name": name, "pid": _PROCESS, "tid": _ENGINE, "ts": when, **fields}
