"""The engine's events as messages, and the messages as events for the client library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.duration_pb2 import Duration

from edgellama.grpc_service import generation_pb2 as pb
from edgellama.grpc_service.tool_wire import call_from_wire, call_to_wire
from edgellama.runtime.completion import output_of
from edgellama.runtime.event import (
    Admission,
    Delta,
    End,
    FinishReason,
    PromptLogprobs,
    Timing,
    TokenLogprobs,
    Usage,
)

# Only regular ends have a message; CANCELLED and ERROR are the status of the call.
_REASONS = {
    FinishReason.EOS: pb.FINISH_REASON_EOS,
    FinishReason.STOP_STRING: pb.FINISH_REASON_STOP_STRING,
    FinishReason.STOP_TOKEN: pb.FINISH_REASON_STOP_TOKEN,
    FinishReason.MAX_TOKENS: pb.FINISH_REASON_MAX_TOKENS,
    FinishReason.GUIDE: pb.FINISH_REASON_GUIDE,
    FinishReason.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
    FinishReason.CONTEXT_FULL: pb.FINISH_REASON_CONTEXT_FULL,
}
_REASONS_BACK = {message: reason for reason, message in _REASONS.items()}


def duration_to_wire(seconds: float) -> Duration:
    """Return the message of a span of seconds."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def duration_from_wire(duration: Duration) -> float:
    """Return the seconds of a message."""
    return duration.seconds + duration.nanos * 1e-9


def admission_to_wire(admission: Admission) -> pb.Admission:
    """Return the message of an admission."""
    return pb.Admission(
        request_id=admission.request_id,
        prompt_tokens=admission.prompt_tokens,
        seed=admission.seed,
        max_new_tokens=admission.max_new_tokens,
        queue=duration_to_wire(admission.queue_seconds),
    )


def admission_from_wire(message: pb.Admission) -> Admission:
    """Return the admission of a message."""
    return Admission(
        request_id=message.request_id,
        prompt_tokens=message.prompt_tokens,
        seed=message.seed,
        max_new_tokens=message.max_new_tokens,
        queue_seconds=duration_from_wire(message.queue),
    )


def logprobs_to_wire(entries: Sequence[TokenLogprobs]) -> pb.Logprobs:
    """Return the columns of log-probabilities; every position has equally many alternatives."""
    top_n = len(entries[0].top) if entries else 0
    assert all(len(entry.top) == top_n for entry in entries), "ragged alternatives"
    return pb.Logprobs(
        chosen=[entry.chosen for entry in entries],
        top_n=top_n,
        top_ids=[token for entry in entries for token, _ in entry.top],
        top_values=[value for entry in entries for _, value in entry.top],
    )


def logprobs_from_wire(message: pb.Logprobs) -> tuple[TokenLogprobs, ...]:
    """Return the positions of columns."""
    pairs = tuple(zip(message.top_ids, message.top_values, strict=True))
    n = message.top_n
    return tuple(
        TokenLogprobs(chosen, pairs[i * n : (i + 1) * n]) for i, chosen in enumerate(message.chosen)
    )


def prompt_to_wire(parts: Sequence[PromptLogprobs]) -> pb.PromptLogprobs:
    """Return the message of a prompt's log-probabilities, of one part at least."""
    entries = tuple(entry for part in parts for entry in part.logprobs)
    return pb.PromptLogprobs(token_offset=parts[0].token_offset, logprobs=logprobs_to_wire(entries))


def prompt_from_wire(message: pb.PromptLogprobs) -> PromptLogprobs:
    """Return the log-probabilities of a prompt's tokens."""
    return PromptLogprobs(message.token_offset, logprobs_from_wire(message.logprobs))


def wants_text(want: pb.Want) -> bool:
    """Return whether text is sent; it is unless switched off."""
    return want.text if want.HasField("text") else True


def delta_to_wire(delta: Delta, want: pb.Want) -> pb.Delta:
    """Return the message of new output with the parts the client wants."""
    return pb.Delta(
        token_offset=delta.token_offset,
        token_count=len(delta.token_ids),
        text=delta.text if wants_text(want) else "",
        token_ids=delta.token_ids if want.token_ids else (),
        logprobs=logprobs_to_wire(delta.logprobs) if delta.logprobs else None,
        index=delta.index,
        tool_calls=map(call_to_wire, delta.tool_calls),
        tool_call_offset=delta.tool_call_offset,
    )


def delta_from_wire(message: pb.Delta) -> Delta:
    """Return the new output of a message."""
    return Delta(
        token_offset=message.token_offset,
        token_ids=tuple(message.token_ids),
        text=message.text,
        logprobs=logprobs_from_wire(message.logprobs),
        index=message.index,
        tool_calls=tuple(map(call_from_wire, message.tool_calls)),
        tool_call_offset=message.tool_call_offset,
    )


def output_end_to_wire(end: End) -> pb.OutputEnd:
    """Return the message of a regular end."""
    message = pb.OutputEnd(
        reason=_REASONS[end.reason], tokens=end.usage.output_tokens, index=end.index
    )
    if isinstance(end.match, str):
        message.stop_string = end.match
    elif end.match is not None:
        message.stop_token_id = end.match
    return message


def usage_to_wire(usage: Usage) -> pb.Usage:
    """Return the message of token counts."""
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        output_tokens=usage.output_tokens,
    )


def timing_to_wire(timing: Timing) -> pb.Timing:
    """Return the message of times."""
    return pb.Timing(
        queue=duration_to_wire(timing.queue),
        first_token=duration_to_wire(timing.first_token),
        total=duration_to_wire(timing.total),
    )


def end_from_wire(output_end: pb.OutputEnd, usage: pb.Usage, timing: pb.Timing) -> End:
    """Return the end that the messages tell; an unknown reason is an error of the peer."""
    if output_end.reason not in _REASONS_BACK:
        raise ValueError(
            f"finish reason {output_end.reason} is unknown; update the edgellama client"
        )
    match = output_end.WhichOneof("match")
    return End(
        reason=_REASONS_BACK[output_end.reason],
        usage=Usage(
            prompt_tokens=usage.prompt_tokens,
            output_tokens=usage.output_tokens,
            cached_prompt_tokens=usage.cached_prompt_tokens,
        ),
        timing=Timing(
            queue=duration_from_wire(timing.queue),
            first_token=duration_from_wire(timing.first_token),
            total=duration_from_wire(timing.total),
        ),
        match=None if match is None else getattr(output_end, match),
        index=output_end.index,
    )


def output_to_wire(deltas: Iterable[Delta], end: End, want: pb.Want) -> pb.Output:
    """Return a whole answer."""
    output = output_of(deltas, end)
    return pb.Output(
        text=output.text if wants_text(want) else "",
        token_ids=output.token_ids if want.token_ids else (),
        logprobs=logprobs_to_wire(output.logprobs) if output.logprobs else None,
        end=output_end_to_wire(end),
        tool_calls=map(call_to_wire, output.tool_calls),
    )
