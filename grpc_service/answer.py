"""What a client has of an answer so far, and the whole of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from edgellama.grpc_service import generation_pb2 as pb
from edgellama.grpc_service.events import (
    admission_from_wire,
    delta_from_wire,
    end_from_wire,
    logprobs_from_wire,
    prompt_from_wire,
)
from edgellama.grpc_service.tool_wire import call_from_wire
from edgellama.runtime import completion
from edgellama.runtime.completion import Output
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
from edgellama.runtime.tools import ToolCall


@dataclass(frozen=True, kw_only=True)
class Completion(completion.Completion):
    """A finished request, with its effective settings; `seed` is that of the first output."""

    request_id: str
    seed: int
    max_new_tokens: int


@dataclass
class _Part:
    """What has arrived of one output."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    end: pb.OutputEnd = field(default_factory=pb.OutputEnd)

    def add(self, delta: Delta) -> None:
        """Take new output."""
        self.texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        self.tool_calls.extend(delta.tool_calls)

    def output(self, usage: pb.Usage, timing: pb.Timing) -> Output:
        """Return the whole of it, after the end."""
        end = end_from_wire(self.end, usage, timing)
        return _output("".join(self.texts), self.token_ids, self.logprobs, self.tool_calls, end)


class Answer:
    """The events of one stream, added up.

    Of several outputs the properties are those of the first, but for `usage` and `timing`, which
    are of all; `completion` has the others.
    """

    def __init__(self) -> None:
        self.admission: Admission | None = None
        self._parts: defaultdict[int, _Part] = defaultdict(_Part)
        self._prompt: list[PromptLogprobs] = []
        self._stream_end: pb.StreamEnd | None = None

    def add(self, message: pb.StreamGenerateResponse) -> Delta | None:
        """Take one message; returns the new output when it is some."""
        kind = message.WhichOneof("event")
        if kind == "admission":
            self.admission = admission_from_wire(message.admission)
        elif kind == "prompt_logprobs":
            self._prompt.append(prompt_from_wire(message.prompt_logprobs))
        elif kind == "delta":
            delta = delta_from_wire(message.delta)
            self._parts[delta.index].add(delta)
            return delta
        elif kind == "output_end":
            self._parts[message.output_end.index].end = message.output_end
        elif kind == "stream_end":
            self._stream_end = message.stream_end
        return None  # an event of a newer server carries nothing that this client shows

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._parts[0].texts)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens so far."""
        return tuple(self._parts[0].token_ids)

    @property
    def logprobs(self) -> tuple[TokenLogprobs, ...]:
        """The log-probabilities so far, one position a token, if asked for."""
        return tuple(self._parts[0].logprobs)

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...]:
        """One for each token of the prompt so far, None for the first; empty if not asked for."""
        return completion.whole_prompt(self._prompt)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of tools so far."""
        return tuple(self._parts[0].tool_calls)

    @property
    def end(self) -> End | None:
        """The end, once it has arrived."""
        done = self._stream_end
        if done is None:
            return None
        return end_from_wire(self._parts[0].end, done.usage, done.timing)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it runs."""
        return self.end.reason if self.end else None

    @property
    def usage(self) -> Usage | None:
        """Token counts; None while it runs."""
        return self.end.usage if self.end else None

    @property
    def timing(self) -> Timing | None:
        """Times on the server; None while it runs."""
        return self.end.timing if self.end else None

    def completion(self) -> Completion:
        """Return all outputs; raises RuntimeError before the end."""
        done, end = self._stream_end, self.end
        if self.admission is None or done is None or end is None:
            raise RuntimeError("the answer is not complete; read the stream to its end first")
        parts = sorted(self._parts.items())
        outputs = tuple(part.output(done.usage, done.timing) for _, part in parts)
        return _completion(self.admission, outputs, end, self.prompt_logprobs)


def completion_from_wire(response: pb.GenerateResponse) -> Completion:
    """Return the answer of a unary call."""
    ends = [
        end_from_wire(output.end, response.usage, response.timing) for output in response.outputs
    ]
    outputs = tuple(
        _output(
            output.text,
            output.token_ids,
            logprobs_from_wire(output.logprobs),
            map(call_from_wire, output.tool_calls),
            end,
        )
        for output, end in zip(response.outputs, ends, strict=True)
    )
    prompt = []
    if response.HasField("prompt_logprobs"):
        prompt.append(prompt_from_wire(response.prompt_logprobs))
    admission = admission_from_wire(response.admission)
    return _completion(admission, outputs, ends[0], completion.whole_prompt(prompt))


def _output(
    text: str,
    token_ids: Iterable[int],
    logprobs: Iterable[TokenLogprobs],
    tool_calls: Iterable[ToolCall],
    end: End,
) -> Output:
    return Output(tuple(token_ids), text, end.reason, end.match, tuple(logprobs), tuple(tool_calls))


def _completion(
    admission: Admission,
    outputs: tuple[Output, ...],
    end: End,
    prompt_logprobs: tuple[TokenLogprobs | None, ...],
) -> Completion:
    """Return the whole; `end` has the counts and times of all outputs."""
    return Completion(
        outputs=outputs,
        usage=end.usage,
        timing=end.timing,
        prompt_logprobs=prompt_logprobs,
        request_id=admission.request_id,
        seed=admission.seed,
        max_new_tokens=admission.max_new_tokens,
    )
