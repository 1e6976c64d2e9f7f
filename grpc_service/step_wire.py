"""Records of steps as messages, and the messages as records for the client library."""

from __future__ import annotations

from dataclasses import fields

from edgellama.grpc_service import control_pb2 as pb
from edgellama.grpc_service.events import duration_from_wire, duration_to_wire
from edgellama.runtime.step_record import Choice, ChunkRecord, Stall, StepParts, StepRecord

_STALLS = {
    Stall.NO_SLOT: pb.STALL_NO_SLOT,
    Stall.OTHER_CHUNK: pb.STALL_OTHER_CHUNK,
    Stall.STEP_TOKENS: pb.STALL_STEP_TOKENS,
    Stall.CHUNK_SLOWDOWN: pb.STALL_CHUNK_SLOWDOWN,
}
_STALLS_BACK = {message: stall for stall, message in _STALLS.items()}
_PARTS = tuple(field.name for field in fields(StepParts))


def step_to_wire(step: StepRecord) -> pb.StreamStepsResponse:
    """Return the message of a step."""
    choice = step.choice
    parts = {part: duration_to_wire(getattr(step.parts, part)) for part in _PARTS}
    message = pb.StreamStepsResponse(
        index=step.index,
        began=duration_to_wire(step.began),
        parts=pb.StepParts(**parts),
        rows=[pb.StepRow(slot=slot, request_id=request) for slot, request in choice.rows],
        admitted=step.admitted,
        cancelled=step.cancelled,
        finished=step.finished,
        running=choice.running,
        waiting=choice.waiting,
        copies=choice.copies,
        saves=choice.saves,
        restores=choice.restores,
        stalls=[_STALLS[stall] for stall in choice.stalls],
        drafted=choice.drafted,
        accepted=step.accepted,
    )
    if (chunk := choice.chunk) is not None:
        message.chunk.request_id, message.chunk.slot = chunk.request_id, chunk.slot
        message.chunk.start, message.chunk.tokens = chunk.start, chunk.tokens
    return message


def step_from_wire(message: pb.StreamStepsResponse) -> StepRecord:
    """Return the step of a message; reasons that this version does not know are left out."""
    chunk = None
    if message.HasField("chunk"):
        sent = message.chunk
        chunk = ChunkRecord(sent.request_id, sent.slot, sent.start, sent.tokens)
    choice = Choice(
        rows=tuple((row.slot, row.request_id) for row in message.rows),
        chunk=chunk,
        copies=message.copies,
        running=message.running,
        waiting=message.waiting,
        stalls=tuple(_STALLS_BACK[each] for each in message.stalls if each in _STALLS_BACK),
        drafted=message.drafted,
        saves=message.saves,
        restores=message.restores,
    )
    parts = StepParts(*(duration_from_wire(getattr(message.parts, part)) for part in _PARTS))
    return StepRecord(
        index=message.index,
        began=duration_from_wire(message.began),
        parts=parts,
        choice=choice,
        admitted=message.admitted,
        cancelled=message.cancelled,
        finished=message.finished,
        accepted=message.accepted,
    )
