"""What a client has of an answer so far, and the whole of it."""

from __future__ import annotations

from dataclasses import dataclass

from edgellama.grpc_service import generation_pb2 as pb
from edgellama.grpc_service.events import (
    admission_from_wire,
    delta_from_wire,
    end_from_wire,
    logprobs_from_wire,
)
from edgellama.runtime.request import (
    Admission,
    Delta,
    End,
    FinishReason,
    Timing,
    TokenLogprobs,
    Usage,
)


@dataclass(frozen=True)
class Completion:
    """One complete answer."""

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    match: str | int | None
    usage: Usage
    timing: Timing
    seed: int
    max_new_tokens: int
    logprobs: tuple[TokenLogprobs, ...] = ()


class Answer:
    """The events of one stream, added up."""

    def __init__(self) -> None:
        self.admission: Admission | None = None
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._output_end = pb.OutputEnd()
        self._end: End | None = None

    def add(self, message: pb.StreamGenerateResponse) -> Delta | None:
        """Take one message; returns the new output when it is some."""
        kind = message.WhichOneof("event")
        if kind == "admission":
            self.admission = admission_from_wire(message.admission)
        elif kind == "delta":
            delta = delta_from_wire(message.delta)
            self._texts.append(delta.text)
            self._token_ids.extend(delta.token_ids)
            self._logprobs.extend(delta.logprobs)
            return delta
        elif kind == "output_end":
            self._output_end = message.output_end
        elif kind == "stream_end":
            end = message.stream_end
            self._end = end_from_wire(self._output_end, end.usage, end.timing)
        return None  # an event of a newer server carries nothing that this client shows

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens so far."""
        return tuple(self._token_ids)

    @property
    def logprobs(self) -> tuple[TokenLogprobs, ...]:
        """The log-probabilities so far, one position a token, if asked for."""
        return tuple(self._logprobs)

    @property
    def end(self) -> End | None:
        """The end, once it has arrived."""
        return self._end

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it runs."""
        return self._end.reason if self._end else None

    @property
    def usage(self) -> Usage | None:
        """Token counts; None while it runs."""
        return self._end.usage if self._end else None

    @property
    def timing(self) -> Timing | None:
        """Times on the server; None while it runs."""
        return self._end.timing if self._end else None

    def completion(self) -> Completion:
        """Return the whole answer; raises RuntimeError before the end."""
        if self.admission is None or self._end is None:
            raise RuntimeError("the answer is not complete; read the stream to its end first")
        return _completion(
            self.admission, self.text, self.token_ids, self._end, tuple(self._logprobs)
        )


def completion_from_wire(response: pb.GenerateResponse) -> Completion:
    """Return the answer of a unary call."""
    output = response.outputs[0]
    return _completion(
        admission_from_wire(response.admission),
        output.text,
        tuple(output.token_ids),
        end_from_wire(output.end, response.usage, response.timing),
        logprobs_from_wire(output.logprobs),
    )


def _completion(
    admission: Admission,
    text: str,
    token_ids: tuple[int, ...],
    end: End,
    logprobs: tuple[TokenLogprobs, ...],
) -> Completion:
    return Completion(
        request_id=admission.request_id,
        text=text,
        token_ids=token_ids,
        finish_reason=end.reason,
        match=end.match,
        usage=end.usage,
        timing=end.timing,
        seed=admission.seed,
        max_new_tokens=admission.max_new_tokens,
        logprobs=logprobs,
    )
