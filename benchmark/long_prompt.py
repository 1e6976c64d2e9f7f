"""Which streams run and how long the prompt is that enters beside them, for interference."""

from __future__ import annotations

from dataclasses import dataclass

STREAM_PROMPT = 16  # tokens
ALONE_TOKENS = 32  # of every stream before the long prompt comes
_STREAMS = 4  # at most; one slot stays free for the long prompt
_LEAST_CAPACITY = 4 * (STREAM_PROMPT + ALONE_TOKENS)


@dataclass(frozen=True)
class LongPrompt:
    """`streams` of STREAM_PROMPT tokens each, and a prompt of `tokens` that fills a slot."""

    streams: int
    tokens: int


def long_prompt(slots: int, capacity: int, longest: int) -> LongPrompt:
    """Return what an engine with room for it is given; the prompt has `longest` tokens at most."""
    return LongPrompt(min(_STREAMS, slots - 1), min(longest, capacity - 1))


def lacking_room(slots: int, capacity: int) -> str | None:
    """Return why an engine has no room for streams and a long prompt, None where it has."""
    if slots < 2:
        return f"the engine has {slots} slot; streams and a long prompt beside them need 2"
    if capacity < _LEAST_CAPACITY:
        return f"a slot holds {capacity} tokens; {_LEAST_CAPACITY} are needed"
    return None
