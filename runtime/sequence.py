"""One request inside the scheduler: its tokens and how far the model has come with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Status(Enum):
    """Where a sequence is; it only ever moves down this list."""

    WAITING = "waiting"  # in the queue, no slot
    PREFILLING = "prefilling"  # holds a slot, prompt not wholly computed
    DECODING = "decoding"  # holds a slot, one token a step
    FINISHED = "finished"  # slot given back


@dataclass(eq=False)
class Sequence:
    """Mutable state of one request; only the scheduler changes it.

    It shares prefixes with sequences of the same `salt` alone; `cached` is how many tokens of its
    prompt it found computed when it was admitted.

    The cache of `slot` holds the positions `[0, computed)` of `prompt + output`. The newest output
    token is always outside: it is what the next step feeds.
    """

    id: str
    prompt: tuple[int, ...]
    max_new_tokens: int
    salt: str = ""
    output: list[int] = field(default_factory=list)
    slot: int | None = None
    computed: int = 0
    cached: int = 0
    status: Status = Status.WAITING

    @property
    def length(self) -> int:
        """Tokens of prompt and output together."""
        return len(self.prompt) + len(self.output)

    @property
    def held(self) -> tuple[int, ...]:
        """The tokens `[0, computed)`, whose positions the slot's cache holds."""
        return (*self.prompt, *self.output)[: self.computed]

    @property
    def remaining_prompt(self) -> int:
        """Prompt tokens `[computed, len(prompt))` that no step has fed yet."""
        return max(0, len(self.prompt) - self.computed)

    @property
    def is_prefilling(self) -> bool:
        """Whether a slot is held and prompt tokens are left."""
        return self.status is Status.PREFILLING

    @property
    def is_at_limit(self) -> bool:
        """Whether `max_new_tokens` are out."""
        return len(self.output) >= self.max_new_tokens
