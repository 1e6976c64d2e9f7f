"""All events of one request as one result."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgellama.runtime.event import (
    Admission,
    Delta,
    End,
    Event,
    FinishReason,
    PromptLogprobs,
    Timing,
    TokenLogprobs,
    Usage,
)
from edgellama.runtime.request import EngineFailedError
from edgellama.runtime.tools import ToolCall


@dataclass(frozen=True)
class Output:
    """One answer to a prompt; `token_ids` has every drawn token, a stop id at its end included."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    match: str | int | None
    logprobs: tuple[TokenLogprobs, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A finished request: its `outputs` in their order, `usage` and `timing` of all together.

    `prompt_logprobs` is empty or one for each token of the prompt, None for the first. The
    properties are those of the first output, which is the only one unless asked for more.
    """

    outputs: tuple[Output, ...]
    usage: Usage
    timing: Timing
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens."""
        return self.outputs[0].token_ids

    @property
    def text(self) -> str:
        """The text."""
        return self.outputs[0].text

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""
        return self.outputs[0].finish_reason

    @property
    def match(self) -> str | int | None:
        """The stop string or id that ended it."""
        return self.outputs[0].match

    @property
    def logprobs(self) -> tuple[TokenLogprobs, ...]:
        """One a token, where asked for."""
        return self.outputs[0].logprobs

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of tools."""
        return self.outputs[0].tool_calls


def output_of(deltas: Iterable[Delta], end: End) -> Output:
    """Return one output out of its events."""
    parts = tuple(deltas)
    return Output(
        token_ids=tuple(token for part in parts for token in part.token_ids),
        text="".join(part.text for part in parts),
        finish_reason=end.reason,
        match=end.match,
        logprobs=tuple(entry for part in parts for entry in part.logprobs),
        tool_calls=tuple(call for part in parts for call in part.tool_calls),
    )


def whole_prompt(parts: Sequence[PromptLogprobs]) -> tuple[TokenLogprobs | None, ...]:
    """Return one entry for each token of a prompt, None for the first; empty when not asked for."""
    return (None, *(entry for part in parts for entry in part.logprobs)) if parts else ()


def usage_of_all(ends: Sequence[End]) -> Usage:
    """Return the counts of a request out of the Ends of its outputs: its prompt counts once."""
    first = min(ends, key=lambda end: end.index).usage
    output_tokens = sum(end.usage.output_tokens for end in ends)
    return Usage(first.prompt_tokens, output_tokens, first.cached_prompt_tokens)


def timing_of_all(ends: Sequence[End]) -> Timing:
    """Return the times of a request out of the Ends of its outputs: the first begins it."""
    first = min(ends, key=lambda end: end.index).timing
    return Timing(first.queue, first.first_token, max(end.timing.total for end in ends))


class Collector:
    """A listener that keeps the events, and hands out the result once all outputs have ended."""

    def __init__(self) -> None:
        self.admission: Admission | None = None
        self._prompt: list[PromptLogprobs] = []
        self._deltas: list[Delta] = []
        self._ends: list[End] = []
        self._ended = threading.Event()

    def __call__(self, event: Event) -> None:
        """Take one event; called on the engine's thread."""
        if isinstance(event, Delta):
            self._deltas.append(event)
        elif isinstance(event, Admission):
            self.admission = event
        elif isinstance(event, PromptLogprobs):
            self._prompt.append(event)
        else:
            self._ends.append(event)
            if not event.outputs_left:
                self._ended.set()

    @property
    def is_ended(self) -> bool:
        """Whether the last End has come, so that `result` does not wait."""
        return self._ended.is_set()

    def result(self) -> Completion:
        """Wait for the last End; raises EngineFailedError when one tells of an error."""
        self._ended.wait()
        ends = sorted(self._ends, key=lambda end: end.index)
        for end in ends:
            if end.reason is FinishReason.ERROR:
                raise EngineFailedError(end.error)
        outputs = (
            output_of((delta for delta in self._deltas if delta.index == end.index), end)
            for end in ends
        )
        return Completion(
            outputs=tuple(outputs),
            usage=usage_of_all(ends),
            timing=timing_of_all(ends),
            prompt_logprobs=whole_prompt(self._prompt),
        )
