"""One request inside the scheduler: its tokens and how far the model has come with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Status(Enum):
    """Where a sequence is; it moves down this list, and back to its top only by preemption."""

    WAITING = "waiting"  # in the queue, no slot
    PREFILLING = "prefilling"  # holds a slot, not wholly computed
    DECODING = "decoding"  # holds a slot, one token a step
    FINISHED = "finished"  # slot given back


@dataclass(eq=False)
class Sequence:
    """Mutable state of one request; only the scheduler changes it.

    One with a `leader` is another output of the same prompt, and waits until that is computed. It
    shares prefixes with sequences of the same `salt` alone; `cached` is how many tokens of its
    prompt it found computed when it was first admitted. The greater `priority` goes first, and of
    the same the `tenant` that was served least. The prompt of one that `is_scored` is computed
    whole. All of one that `is_pinned` is computed with the first form of the weights.

    The cache of `slot` holds the positions `[0, computed)` of `prompt + output`. The newest output
    token is always outside: it is what the next step feeds.
    """

    id: str
    prompt: tuple[int, ...]
    max_new_tokens: int
    salt: str = ""
    priority: int = 0
    tenant: str = ""
    leader: Sequence | None = field(default=None, repr=False)
    is_scored: bool = False
    is_pinned: bool = False
    output: list[int] = field(default_factory=list)
    slot: int | None = None
    computed: int = 0
    to_compute: int = 0  # before it decodes: its prompt, and what it had put out but the newest
    cached: int = 0
    status: Status = Status.WAITING
    arrival: int = 0  # its number in the order of arrival
    overtaken: int = 0  # later arrivals that got a slot while it waited
    preempted: int = 0  # times that it lost its slot

    @property
    def length(self) -> int:
        """Tokens of prompt and output together."""
        return len(self.prompt) + len(self.output)

    @property
    def held(self) -> tuple[int, ...]:
        """The tokens `[0, computed)`, whose positions the slot's cache holds for other sequences.

        Only the prompt's of a pinned one: its output came from rows, whose attention is not
        rounded as that of the chunks that other prompts are computed in.
        """
        tokens = self.prompt if self.is_pinned else (*self.prompt, *self.output)
        return tokens[: self.computed]

    @property
    def is_prefilling(self) -> bool:
        """Whether a slot is held and chunks are still to come."""
        return self.status is Status.PREFILLING

    @property
    def is_at_limit(self) -> bool:
        """Whether `max_new_tokens` are out."""
        return len(self.output) >= self.max_new_tokens
