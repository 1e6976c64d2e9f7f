"""Steps as a trace: tracks, nesting and counters."""

from __future__ import annotations

import json
from collections import defaultdict

from edgellama.runtime.chrome_trace import chrome_trace
from edgellama.runtime.step_record import Choice, ChunkRecord, Stall, StepParts, StepRecord

PARTS = StepParts(0.001, 0.02, 0.003, 0.0004, 0.0001, 0.0005)


def record(index: int, began: float) -> StepRecord:
    choice = Choice(
        rows=((0, "a"), (2, "b")),
        chunk=ChunkRecord("c", 1, 64, 32),
        copies=1,
        running=3,
        waiting=2,
        stalls=(Stall.NO_SLOT,),
        saves=4,
        restores=5,
    )
    return StepRecord(index, began, PARTS, choice, admitted=1, cancelled=0, finished=0)


def test_no_steps_are_an_empty_trace() -> None:
    document = chrome_trace((), "nothing")
    assert [event["ph"] for event in document["traceEvents"]] == ["M", "M", "M"]


def test_steps_parts_and_slots_have_their_tracks() -> None:
    document = chrome_trace((record(7, 50.0), record(8, 50.1)), "edgellama tiny")
    json.dumps(document)
    events = document["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {0: "engine", 1: "slot 0", 2: "slot 1", 3: "slot 2"}
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["tid"]].append(event)
    steps = [event for event in tracks[0] if event["name"].startswith("step ")]
    assert [(e["name"], e["ts"], e["dur"]) for e in steps] == [
        ("step 7", 0.0, 25_000.0),
        ("step 8", 100_000.0, 25_000.0),
    ]
    moved = [steps[0]["args"][key] for key in ("copies", "saves", "restores")]
    assert moved == [1, 4, 5]
    assert steps[0]["args"]["stalls"] == ["no_slot"] and steps[0]["args"]["tokens"] == 34
    parts = [event for event in tracks[0][1:7]]
    assert [event["name"] for event in parts] == [
        "schedule", "backend", "sample", "detokenise", "update", "deliver"
    ]  # fmt: skip
    ends = [round(event["ts"] + event["dur"], 3) for event in parts]
    assert ends[:-1] == [event["ts"] for event in parts[1:]], "one after the other"
    assert ends[-1] == 25_000.0, "and the step is its parts"
    (prompt,) = (event for event in tracks[2] if event["ts"] < 50_000)
    assert prompt["name"] == "prompt, 32 tokens"
    assert prompt["args"] == {"request": "c", "start": 64}
    assert (prompt["ts"], prompt["dur"]) == (parts[1]["ts"], parts[1]["dur"])
    counters = [event["args"] for event in events if event["ph"] == "C"]
    assert counters == [{"running": 3, "waiting": 2}] * 2
