"""A record of a step is the same behind the wire."""

from __future__ import annotations

from edgellama.grpc_service.step_wire import step_from_wire, step_to_wire
from edgellama.runtime.step_record import Choice, ChunkRecord, Stall, StepParts, StepRecord


def test_a_step_comes_back_whole() -> None:
    choice = Choice(
        rows=((0, "a"), (2, "b#1")),
        chunk=ChunkRecord("c", 1, 64, 32),
        copies=1,
        running=3,
        waiting=2,
        stalls=tuple(Stall),
        saves=4,
        restores=5,
    )
    parts = StepParts(0.5, 0.25, 0.125, 1.0, 2.0, 4.0)
    step = StepRecord(7, 50.5, parts, choice, admitted=6, cancelled=8, finished=9)
    assert step_from_wire(step_to_wire(step)) == step
