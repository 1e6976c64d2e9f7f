"""What one generation asks for; standard library only."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from edgellama.runtime.forced_call import forced_call
from edgellama.runtime.guide import Guide
from edgellama.runtime.invalid_request import InvalidRequestError as InvalidRequestError
from edgellama.runtime.tools import Toolset, check_tool_choice

MAX_LOGPROBS = 20
MAX_PROMPT_LOGPROBS = 2**18  # in one request; as many fit a message
MAX_OUTPUTS = 16
MAX_BAD_WORDS = 128
MAX_BAD_WORD_CHARS = 256
MAX_BAD_WORD_TOKENS = 64
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARS = 256
MAX_CACHE_SALT_CHARS = 128
MAX_TENANT_CHARS = 128
MAX_PRIORITY = 100


class QueueFullError(RuntimeError):
    """The waiting queue is at its limit; try again later."""


class DrainingError(RuntimeError):
    """The engine finishes what it has and takes no new request."""


class EngineFailedError(RuntimeError):
    """The engine broke in an earlier step and must be loaded again."""


def _bounded(field: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    bad = not math.isfinite(value) or value > high or value < low or (open_low and value == low)
    if bad:
        # A whole limit is shown whole: 2147483647, not 2.14748e+09.
        ends = (end if isinstance(end, int) else f"{end:g}" for end in (low, high))
        bound = f"{'(' if open_low else '['}{', '.join(map(str, ends))}]"
        raise InvalidRequestError(field, f"is {value!r}; it must be in {bound}")


def _short(field: str, value: str, limit: int) -> None:
    if len(value) > limit:
        raise InvalidRequestError(field, f"has {len(value)} characters; at most {limit}")


def _few(field: str, sizes: list[int], most: int, longest: int, unit: str) -> None:
    """Refuse a list of more than `most` entries, or an entry that is empty or too long."""
    if len(sizes) > most:
        raise InvalidRequestError(field, f"has {len(sizes)} entries; at most {most}")
    for size in sizes:
        if not 1 <= size <= longest:
            raise InvalidRequestError(
                field, f"has an entry of {size} {unit}; each needs 1 to {longest}"
            )


def _whole(field: str, value: int | None) -> None:
    """Refuse what is no integer: 2.5 tokens would never be reached, and the engine would break."""
    try:
        if value is not None:
            operator.index(value)
    except TypeError:
        raise InvalidRequestError(field, f"is {value!r}; it must be an integer") from None


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; the defaults change nothing of the model's distribution.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 are off. `repetition_penalty`
    divides positive and multiplies negative logits of every token seen in prompt or output (CTRL,
    arXiv:1909.05858); `presence_penalty` and `frequency_penalty` are subtracted from the logits of
    generated tokens, once and per occurrence. `seed` None draws a fresh seed at admission.

    `bad_words` and the sequences of `bad_token_ids` are never drawn: the last token of one cannot
    come where the tokens before it end the output; the prompt does not count. A word stands for two
    sequences, the tokens of its text with and without a space in front. Other tokens may spell it.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    seed: int | None = None
    bad_words: tuple[str, ...] = ()
    bad_token_ids: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        _bounded("sampling.temperature", self.temperature, 0.0, 100.0)
        _whole("sampling.top_k", self.top_k)
        _bounded("sampling.top_k", self.top_k, 0, 2**31 - 1)
        _bounded("sampling.top_p", self.top_p, 0.0, 1.0, open_low=True)
        _bounded("sampling.min_p", self.min_p, 0.0, 1.0)
        _bounded("sampling.repetition_penalty", self.repetition_penalty, 0.0, 10.0, open_low=True)
        _bounded("sampling.presence_penalty", self.presence_penalty, -10.0, 10.0)
        _bounded("sampling.frequency_penalty", self.frequency_penalty, -10.0, 10.0)
        for token, bias in self.logit_bias.items():
            _bounded(f"sampling.logit_bias[{token}]", bias, -1000.0, 1000.0)
        _whole("sampling.seed", self.seed)
        if self.seed is not None:
            _bounded("sampling.seed", self.seed, 0, 2**64 - 1)
        for name, longest, unit in (
            ("bad_words", MAX_BAD_WORD_CHARS, "characters"),
            ("bad_token_ids", MAX_BAD_WORD_TOKENS, "tokens"),
        ):
            sizes = [len(entry) for entry in getattr(self, name)]
            _few(f"sampling.{name}", sizes, MAX_BAD_WORDS, longest, unit)


@dataclass(frozen=True)
class Stop:
    """When a generation ends, besides the model's own stop ids.

    `max_new_tokens` None means: until a stop or until the slot is full, which is when prompt and
    output together are as many tokens as a slot holds. Until `min_new_tokens`
    tokens exist no stop id can be drawn and no stop string ends the text. A matched stop string
    is not part of the text unless `keep_match`.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    strings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    keep_match: bool = False
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _whole("stop.max_new_tokens", self.max_new_tokens)
        _whole("stop.min_new_tokens", self.min_new_tokens)
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise InvalidRequestError(
                "stop.max_new_tokens", f"is {self.max_new_tokens}; it must be >= 1"
            )
        if self.min_new_tokens < 0:
            raise InvalidRequestError(
                "stop.min_new_tokens", f"is {self.min_new_tokens}; it must be >= 0"
            )
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise InvalidRequestError(
                "stop.min_new_tokens",
                f"is {self.min_new_tokens}; it must be <= stop.max_new_tokens "
                f"({self.max_new_tokens})",
            )
        sizes = [len(text) for text in self.strings]
        _few("stop.strings", sizes, MAX_STOP_STRINGS, MAX_STOP_STRING_CHARS, "characters")


@dataclass(frozen=True)
class Request:
    """One generation over token ids; text and chats become ids in `runtime.text` before this.

    `top_logprobs` None reports no log-probabilities, 0 those of the chosen tokens only, n > 0 also
    the n most likely tokens at each position. `request_id` "" lets the engine mint one. A prompt
    takes what the cache holds of its beginning from requests of the same `cache_salt` only: with
    one for each tenant nobody can tell by the time to a first token what others have asked. Of
    those that wait the greatest `priority`, in [-100, 100], goes first, and of the same one the
    `tenant` that was served least. `guide` is a rule that the answer's text obeys. `tools` are
    those that the prompt offers: their calls are told from the text. `tool_choice` is `auto`,
    `none` (no call is looked for), `required` (the answer is a call) or the name of the tool to
    call.

    `n` outputs are drawn from the prompt, which is computed once. Output i, from 0 on, draws what a
    request of its own with the seed `(seed + i) mod 2**64` would.

    `prompt_logprobs` as `top_logprobs`, of the prompt's own tokens but the first. Such a prompt is
    computed whole, whatever is cached of it.
    """

    prompt_ids: tuple[int, ...]
    sampling: Sampling = Sampling()
    stop: Stop = Stop()
    top_logprobs: int | None = None
    request_id: str = ""
    skip_special_tokens: bool = True
    cache_salt: str = ""
    priority: int = 0
    tenant: str = ""
    guide: Guide | None = None
    n: int = 1
    prompt_logprobs: int | None = None
    tools: Toolset | None = None
    tool_choice: str = "auto"

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise InvalidRequestError("prompt", "is empty; at least one token is needed")
        for name in ("top_logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            _whole(name, value)
            if value is not None:
                _bounded(name, value, 0, MAX_LOGPROBS)
        size = 0 if self.prompt_logprobs is None else self.prompt_logprobs + 1
        if size * len(self.prompt_ids) > MAX_PROMPT_LOGPROBS:
            raise InvalidRequestError(
                "prompt_logprobs",
                f"is {self.prompt_logprobs} for a prompt of {len(self.prompt_ids)} tokens; at most "
                f"{MAX_PROMPT_LOGPROBS} log-probabilities come back, {size} for each token; ask "
                "for less or shorten the prompt",
            )
        _short("cache_salt", self.cache_salt, MAX_CACHE_SALT_CHARS)
        _whole("priority", self.priority)
        _bounded("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)
        _short("tenant", self.tenant, MAX_TENANT_CHARS)
        _whole("n", self.n)
        _bounded("n", self.n, 1, MAX_OUTPUTS)
        check_tool_choice(self.tool_choice, self.tools)
        if self.guide is not None and self.must_call:
            raise InvalidRequestError(
                "tool_choice",
                f"is {self.tool_choice!r} beside a guide; both rule the answer, leave one out",
            )
        if self.offered is not None and not self.skip_special_tokens:
            raise InvalidRequestError(
                "special_tokens",
                "are wanted beside tools, but those of a call are no part of a text; leave one out",
            )
        if self.is_ruled and self.stop.min_new_tokens:
            raise InvalidRequestError(
                "stop.min_new_tokens",
                f"is {self.stop.min_new_tokens} beside a guide, which says itself when the text is "
                "complete; leave one of them out",
            )
        if self.is_ruled and self.stop.ignore_eos:
            raise InvalidRequestError(
                "stop.ignore_eos", "is set beside a guide, whose text has an end; leave one out"
            )

    @property
    def is_ruled(self) -> bool:
        """Whether there is a `rule`."""
        return self.guide is not None or self.must_call

    @property
    def must_call(self) -> bool:
        """Whether the answer is a call."""
        return self.tool_choice not in ("auto", "none")

    @property
    def offered(self) -> Toolset | None:
        """The tools whose calls are told from the text."""
        return None if self.tool_choice == "none" else self.tools

    @property
    def rule(self) -> Guide | None:
        """What the whole answer obeys: `guide`, or that it is a call where one must be made."""
        if self.tools is None or not self.must_call:
            return self.guide
        choice = self.tool_choice
        return forced_call([t for t in self.tools.tools if choice in ("required", t.name)])
