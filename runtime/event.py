"""What one generation gets back: admission, deltas, ends; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edgellama.runtime.tools import ToolCall


class FinishReason(str, Enum):
    """Why a generation ended."""

    EOS = "eos"  # a stop id of the model's generation_config
    STOP_TOKEN = "stop_token"  # one of the request's own stop ids
    STOP_STRING = "stop_string"
    MAX_TOKENS = "max_tokens"
    GUIDE = "guide"  # the text is what the guide asks for, and nothing may follow
    TOOL_CALLS = "tool_calls"  # the answer is complete and calls tools
    CONTEXT_FULL = "context_full"  # the slot holds no further token
    CANCELLED = "cancelled"
    ERROR = "error"  # the engine failed; see `End.error`


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities at one position, from the distribution before any sampling rule.

    `top` holds (token id, logprob) by falling logprob.
    """

    chosen: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Admission:
    """The first output holds a slot; `seed` and `max_new_tokens` are the effective ones."""

    request_id: str
    prompt_tokens: int
    seed: int
    max_new_tokens: int
    queue_seconds: float


@dataclass(frozen=True)
class PromptLogprobs:
    """Log-probabilities of the prompt's tokens `[token_offset, token_offset + len(logprobs))`.

    Each is given the tokens before it; the prompt's first token has none.
    """

    token_offset: int
    logprobs: tuple[TokenLogprobs, ...]


@dataclass(frozen=True)
class Delta:
    """New tokens `[token_offset, token_offset + len(token_ids))` of output `index`, and their text.

    Every drawn token is in exactly one delta, a stop id that ended the output included, so
    `len(token_ids)` adds up to `Usage.output_tokens`; such a stop id adds no text. Concatenated
    over an output, `text` is exactly the final text; it may lag behind the tokens while bytes of a
    character or a possible stop string or call are held back. `logprobs` is empty or one per token.
    `tool_calls` are complete ones, the output's calls from `tool_call_offset` on; they are no part
    of `text`.
    """

    token_offset: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    index: int = 0
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_offset: int = 0


@dataclass(frozen=True)
class Usage:
    """Token counts; `cached_prompt_tokens` of the prompt needed no computing."""

    prompt_tokens: int
    output_tokens: int
    cached_prompt_tokens: int = 0


@dataclass(frozen=True)
class Timing:
    """Seconds since submission on one monotonic clock; 0.0 where the stage was not reached."""

    queue: float
    first_token: float
    total: float


@dataclass(frozen=True)
class End:
    """The last event of output `index`, one each; `match` is the stop string or id that hit.

    `usage` and `timing` are the output's own. `outputs_left` others of its request go on; with 0
    the request is over. Where one has failed the others are cancelled.
    """

    reason: FinishReason
    usage: Usage
    timing: Timing
    match: str | int | None = None
    error: str | None = None
    index: int = 0
    outputs_left: int = 0


Event = Admission | PromptLogprobs | Delta | End
