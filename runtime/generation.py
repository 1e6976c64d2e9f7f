"""One output from submission to its End: the way of each drawn token to text and stop rules."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgellama.runtime.bad_words import BadWords
from edgellama.runtime.event import Admission, Delta, End, Event, FinishReason, Timing, Usage
from edgellama.runtime.prompt_scores import PromptScores
from edgellama.runtime.request import Request
from edgellama.runtime.sampling import Draw, SamplingState
from edgellama.runtime.sequence import Sequence
from edgellama.runtime.tool_call_parser import END_OF_MESSAGE, PYTHON_TAG, ToolCallParser
from edgellama.runtime.tools import ToolCall

if TYPE_CHECKING:
    from edgellama.runtime.detokenize import StreamDecoder
    from edgellama.runtime.guide_matcher import GuideMatcher
    from edgellama.runtime.text import TextCodec

Listener = Callable[[Event], None]
Sequences = tuple[tuple[int, ...], ...]  # of token ids

# Ends of answers that are cut short of what the model would have written.
_CUTS = (FinishReason.MAX_TOKENS, FinishReason.CONTEXT_FULL)


def end_ids(request: Request, codec: TextCodec) -> tuple[int, ...]:
    """Return the ids that end the answer: the model's, and with tools the end of a message."""
    if request.stop.ignore_eos:
        return ()
    ids = codec.generation.stop_ids
    end = None if request.offered is None else codec.special_id(END_OF_MESSAGE)
    return ids if end is None or end in ids else (*ids, end)


class Generation:
    """State of one output beside its `sequence`; made by the caller, then the engine thread's.

    `outputs` is one list for all of the request: those that have not ended, itself included.
    """

    def __init__(
        self,
        request: Request,
        sequence: Sequence,
        listener: Listener,
        *,
        index: int,
        seed: int,
        outputs: list[Generation],
        guide: GuideMatcher | None = None,
        bad_words: Sequences = (),
    ) -> None:
        self.request = request
        self.sequence = sequence
        self.listener = listener
        self.index = index
        self.seed = seed
        self.outputs = outputs
        self.outputs_left = 0  # when it ended itself
        self.is_cancelled = False  # asked for; the End follows at the next step boundary
        self.is_muted = False  # the listener raised: nothing but Ends go to it
        self.reason: FinishReason | None = None
        self.match: str | int | None = None
        self.scores: PromptScores | None = None
        if sequence.is_scored:
            self.scores = PromptScores(request.prompt_ids, request.prompt_logprobs or 0)
        self.sampling: SamplingState  # these three from admission on
        self._decoder: StreamDecoder
        self._eos: frozenset[int]
        self._guide = guide
        self._bad_words = bad_words
        self._parser: ToolCallParser | None = None  # both with tools, from admission on
        self._python_tag: int | None = None
        self._own_stops = frozenset(request.stop.token_ids)
        self._output_tokens = 0
        self._submitted = time.monotonic()
        self._queue_seconds = 0.0
        self._first_token_seconds = 0.0

    @property
    def id(self) -> str:
        """The output's id in the engine."""
        return self.sequence.id

    @property
    def request_id(self) -> str:
        """The request's id, minted or given."""
        return (self.sequence.leader or self.sequence).id

    def admit(self, codec: TextCodec) -> Admission:
        """Make what the tokens need: random stream, decoder, stop ids."""
        request, stop = self.request, self.request.stop
        self._eos = frozenset(end_ids(request, codec))
        self.sampling = SamplingState(
            request.sampling,
            request.prompt_ids,
            self.seed,
            banned_until_min=tuple(self._eos | self._own_stops),
            min_new_tokens=stop.min_new_tokens,
            top_logprobs=request.top_logprobs,
            bad_words=BadWords(self._bad_words) if self._bad_words else None,
        )
        self.sampling.guide = self._guide
        self._decoder = codec.stream(
            request.prompt_ids, stop, skip_special_tokens=request.skip_special_tokens
        )
        if request.offered is not None:
            self._parser = ToolCallParser(request.offered)
            self._python_tag = codec.special_id(PYTHON_TAG)
        self._queue_seconds = self._elapsed()
        return Admission(
            request_id=self.request_id,
            prompt_tokens=len(request.prompt_ids),
            seed=self.seed,
            max_new_tokens=self.sequence.max_new_tokens,
            queue_seconds=self._queue_seconds,
        )

    def accept(self, draw: Draw) -> Delta:
        """Take the next token; afterwards `reason` says whether and why it was the last."""
        token, offset = draw.token, self._output_tokens
        self._output_tokens += 1
        if offset == 0:
            self._first_token_seconds = self._elapsed()
        text = ""
        if token in self._eos:
            self.reason, self.match = FinishReason.EOS, token
        elif token in self._own_stops:
            self.reason, self.match = FinishReason.STOP_TOKEN, token
        else:
            text = self._decoder.push(token)
            if self._decoder.matched is not None:
                self.reason, self.match = FinishReason.STOP_STRING, self._decoder.matched
            elif self._guide is not None and self._guide.advance(token):
                self.reason = FinishReason.GUIDE
            elif self._output_tokens == self.sequence.max_new_tokens:
                self.reason = (
                    FinishReason.CONTEXT_FULL
                    if self.request.stop.max_new_tokens is None
                    else FinishReason.MAX_TOKENS
                )
        if self.reason is not None and self.reason is not FinishReason.STOP_STRING:
            text += self._decoder.finish()
            if self._decoder.matched is not None:  # what was held back completed a stop string
                self.reason, self.match = FinishReason.STOP_STRING, self._decoder.matched
        logprobs = () if draw.logprobs is None else (draw.logprobs,)
        if self._parser is None:
            return Delta(offset, (token,), text, logprobs, self.index)
        told = self._parser.num_calls
        text, calls = self._told_apart(self._parser, token, text)
        return Delta(offset, (token,), text, logprobs, self.index, calls, told)

    def _told_apart(
        self, parser: ToolCallParser, token: int, text: str
    ) -> tuple[str, tuple[ToolCall, ...]]:
        """Return text and calls of what a token freed; at the end, all that was held back."""
        if token == self._python_tag:
            parser.tag(behind=self._decoder.held)
        text, calls = parser.push(text)
        if self.reason is not None:
            rest, more = parser.finish(is_cut=self.reason in _CUTS)
            text, calls = text + rest, calls + more
            if parser.num_calls and self.reason not in _CUTS:
                self.reason = FinishReason.TOOL_CALLS
        return text, calls

    def end(self, error: str | None = None) -> End:
        """Return the last event, after `reason` is set."""
        assert self.reason is not None
        return End(
            reason=self.reason,
            usage=Usage(len(self.request.prompt_ids), self._output_tokens, self.sequence.cached),
            timing=Timing(self._queue_seconds, self._first_token_seconds, self._elapsed()),
            match=self.match,
            error=error,
            index=self.index,
            outputs_left=self.outputs_left,
        )

    def _elapsed(self) -> float:
        """Seconds since submission."""
        return time.monotonic() - self._submitted
