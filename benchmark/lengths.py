"""How long prompts and answers are: fixed pairs, or a committed list by its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

CHAT = "chat"
LISTS = (CHAT, "shared-prefix")
_FIXED = re.compile(r"([1-9][0-9]*)/([1-9][0-9]*)")
_COLUMNS = 4


class LengthsError(ValueError):
    """A name of lengths that is not known, or lengths that a server has no room for."""


@dataclass(frozen=True)
class Pair:
    """Tokens of one request: `prompt` of its own after `prefix_tokens` shared ones, and `output`.

    Requests of the same `prefix` begin with the same tokens; None shares nothing.
    """

    prompt: int
    output: int
    prefix: int | None = None
    prefix_tokens: int = 0

    def __post_init__(self) -> None:
        for name, least in (("prompt", 1), ("output", 1), ("prefix_tokens", 0)):
            value = getattr(self, name)
            if value < least:
                raise LengthsError(f"{name} is {value}; it must be >= {least}")
        if (self.prefix is None) != (self.prefix_tokens == 0):
            raise LengthsError(
                f"prefix is {self.prefix} with {self.prefix_tokens} tokens; give both or none"
            )

    @property
    def tokens(self) -> int:
        """Tokens that the request takes of a slot."""
        return self.prefix_tokens + self.prompt + self.output

    def clipped(self, capacity: int) -> Pair:
        """Return the pair as a slot of `capacity` >= 2 tokens holds it.

        The answer keeps its length up to half of the slot or the room that the prompt leaves; then
        the prompt's own tokens give way, and after them the shared ones.
        """
        if self.tokens <= capacity:
            return self
        asked = self.prefix_tokens + self.prompt
        output = min(self.output, max(capacity // 2, capacity - asked))
        room = capacity - output
        shared = min(self.prefix_tokens, room - 1)
        prompt = min(self.prompt, room - shared)
        prefix = self.prefix if shared else None
        return Pair(prompt, output, prefix, shared)


@dataclass(frozen=True)
class Lengths:
    """Pairs under a name; `clipped` of them were longer than a slot of `capacity`."""

    name: str
    pairs: tuple[Pair, ...]
    capacity: int | None = None
    clipped: int = 0

    def within(self, capacity: int) -> Lengths:
        """Return the lengths as a server with `capacity` tokens a request can take them."""
        if capacity < 2:
            raise LengthsError(f"capacity is {capacity}; a prompt and an answer need 2 tokens")
        pairs = tuple(pair.clipped(capacity) for pair in self.pairs)
        clipped = sum(a != b for a, b in zip(self.pairs, pairs, strict=True))
        return replace(self, pairs=pairs, capacity=capacity, clipped=clipped)

    def as_dict(self) -> dict[str, int | float | None]:
        """Return what was really sent, for a report: means, and how many pairs were clipped."""
        count = len(self.pairs)
        return {
            "pairs": count,
            "clipped": self.clipped,
            "capacity": self.capacity,
            "prompt_tokens_mean": round(
                sum(pair.prefix_tokens + pair.prompt for pair in self.pairs) / count, 1
            ),
            "output_tokens_mean": round(sum(pair.output for pair in self.pairs) / count, 1),
        }


def lengths_by_name(name: str) -> Lengths:
    """Return the lengths `PROMPT/OUTPUT`, or one of LISTS; raises LengthsError."""
    fixed = _FIXED.fullmatch(name)
    if fixed is not None:
        return Lengths(name, (Pair(int(fixed[1]), int(fixed[2])),))
    if name not in LISTS:
        raise LengthsError(
            f"lengths is {name!r}; it must be PROMPT/OUTPUT such as 128/128, or one of "
            f"{', '.join(LISTS)}"
        )
    text = files("edgellama.benchmark").joinpath("lengths", f"{name}.csv").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return Lengths(name, tuple(_pair(line.split(",")) for line in lines[1:]))


def _pair(cells: Sequence[str]) -> Pair:
    assert len(cells) == _COLUMNS, f"a row of {len(cells)} cells in a committed list"
    prompt, output, prefix, shared = cells
    return Pair(int(prompt), int(output), int(prefix) if prefix else None, int(shared or 0))
