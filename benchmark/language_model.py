"""What can be evaluated: an engine, or any other model that gives logits and greedy answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from edgellama.runtime.backend import Logits
from edgellama.runtime.text import TextCodec

# (finished answers, all of them)
OnAnswer = Callable[[int, int], None]


class EvaluationError(ValueError):
    """A text, question or pair of models that cannot be evaluated."""


class LanguageModel(Protocol):
    """A loaded model with its tokenizer; `close` frees it."""

    @property
    def name(self) -> str:
        """The folder it was loaded from."""

    @property
    def precision(self) -> str:
        """How weights, tables and cache are stored, in words."""

    @property
    def size_bytes(self) -> int:
        """Bytes on the disk."""

    @property
    def codec(self) -> TextCodec:
        """The tokenizer, stop ids and chat template."""

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""

    @property
    def capacity(self) -> int:
        """Tokens a sequence may have."""

    @property
    def chunk(self) -> int:
        """Tokens of a text to run at once."""

    def run_tokens(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """Feed `tokens` at `start`; returns float32 `[len(tokens), vocab]`."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Collection[int],
        on_answer: OnAnswer | None = None,
    ) -> list[list[int]]:
        """Return the greedy continuation of each prompt, a stop id at its end included.

        One that reaches `capacity` ends there. Raises EvaluationError for a prompt without a token
        or without room for an answer.
        """

    def close(self) -> None:
        """Free the weights."""


def require_room(prompts: Sequence[Sequence[int]], capacity: int) -> None:
    """Check that every prompt has a token and leaves room for one more; EvaluationError if not."""
    for number, prompt in enumerate(prompts, start=1):
        if not prompt:
            raise EvaluationError(f"prompt {number} has no token")
        if len(prompt) >= capacity:
            raise EvaluationError(
                f"prompt {number} has {len(prompt)} tokens, which leaves no room for an answer in "
                f"a capacity of {capacity}; use an engine of a larger limits.capacity"
            )
