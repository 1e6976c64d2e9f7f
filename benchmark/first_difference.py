"""Where the greedy answers of two models part: what a user of a quantised model notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

PROMPT_TOKENS = 16
PROMPTS = 32


@dataclass(frozen=True)
class GreedyDivergence:
    """The new tokens that two models agree on before they part, for each prompt.

    `agreed[i]` is the index of the first token that differs, and `new_tokens` where none does.
    """

    new_tokens: int
    agreed: tuple[int, ...]

    @property
    def identical(self) -> int:
        """Prompts whose answers never part."""
        return sum(count == self.new_tokens for count in self.agreed)

    @property
    def mean(self) -> float:
        """Mean of `agreed`; what never parts counts as `new_tokens`, so the true one is higher."""
        return mean(self.agreed)

    @property
    def median(self) -> float:
        """Median of `agreed`."""
        return median(self.agreed)

    def as_dict(self) -> dict[str, Any]:
        """Return the form for `--json`."""
        return {
            "prompts": len(self.agreed),
            "new_tokens": self.new_tokens,
            "identical": self.identical,
            "first_difference_mean": self.mean,
            "first_difference_median": self.median,
            "first_difference_min": min(self.agreed),
        }


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the index of the first token that differs; of two of one length, that length."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


def prompt_of(ids: Sequence[int], capacity: int, new_tokens: int) -> list[int] | None:
    """Return the first tokens of a document as a prompt; None for one that is too short.

    Prompts are all of one length, so that none weighs more, and leave room for `new_tokens`.
    """
    length = min(PROMPT_TOKENS, capacity - new_tokens)
    return list(ids[:length]) if 0 < length < len(ids) else None
