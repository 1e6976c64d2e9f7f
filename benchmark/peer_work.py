"""What every system is asked to do: prompts, single answers, and requests that come over time.

Each cell gives a rate in tokens/s. The requests are drawn from a seed, are the same for every
system and in every round, and have random prompts, so that none shares a prefix with another.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgellama.benchmark.peer_environment import PeerError

# Kind of work -> the key of a row that tells its cells apart.
KEYS = {"prefill": "prompt_tokens", "decode": "context", "requests": "concurrency"}
UNIT = "tokens/s"
Times = Sequence[Sequence[float]]


@dataclass(frozen=True)
class PeerGrid:
    """Tokens of the prompts and of the contexts, and numbers of requests that come together.

    A decode cell asks for `decode_tokens`. The prompts and outputs of the requests have lengths
    between the two bounds, and `gap_seconds` lie between two of them on average.
    """

    prompts: tuple[int, ...]
    contexts: tuple[int, ...]
    decode_tokens: int
    concurrencies: tuple[int, ...]
    prompt_bounds: tuple[int, int]
    output_bounds: tuple[int, int]
    gap_seconds: float

    @property
    def longest(self) -> int:
        """Tokens of the longest request, its prompt and output together."""
        return max(max(self.prompts) + 1, self.longest_answer)

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest request that is answered with more than one token."""
        return max(max(self.contexts) + self.decode_tokens, self.longest_of_many)

    @property
    def longest_of_many(self) -> int:
        """Tokens of the longest request that comes together with others."""
        return self.prompt_bounds[1] + self.output_bounds[1]


@dataclass(frozen=True)
class PeerRequest:
    """A prompt, how many tokens must come, and the seconds from the start when it is sent."""

    prompt: tuple[int, ...]
    output_tokens: int
    arrival: float

    def as_dict(self) -> dict[str, Any]:
        """Return the form that a worker reads."""
        return {
            "prompt": self.prompt,
            "output_tokens": self.output_tokens,
            "arrival": self.arrival,
        }


@dataclass(frozen=True)
class PeerCell:
    """One figure: the requests of a kind of work at one of its sizes; the first comes at 0 s."""

    work: str
    size: int
    requests: tuple[PeerRequest, ...]

    @property
    def labels(self) -> dict[str, Any]:
        """Return what a row of this cell begins with."""
        return {"work": self.work, KEYS[self.work]: self.size}

    @property
    def tokens(self) -> int:
        """Tokens of all prompts and outputs."""
        return sum(len(each.prompt) + each.output_tokens for each in self.requests)

    def rate(self, times: Times) -> float:
        """Return tokens/s; `times` has for each request the seconds to each of its tokens.

        Prefill: tokens of the prompt by the time to the first token. Decode: tokens after the first
        by the time after it. Requests: tokens of all by the time from the first arrival to the last
        token. Raises PeerError where a token too many or too few came, or all came at once.
        """
        wanted = [request.output_tokens for request in self.requests]
        found = [len(each) for each in times]
        if found != wanted:
            raise PeerError(f"gave {_counts(found)} tokens where {_counts(wanted)} were asked for")
        if self.work == "prefill":
            count, seconds = self.size, times[0][0]
        elif self.work == "decode":
            count, seconds = wanted[0] - 1, times[0][-1] - times[0][0]
        else:
            count, seconds = sum(wanted), max(each[-1] for each in times)
        if not seconds > 0:
            raise PeerError(f"gave {count} tokens within {seconds} s; no rate follows from that")
        return count / seconds


# The tiny model has room for 512 tokens; it proves that everything runs, and no speed.
GRIDS = {
    "tiny": PeerGrid((32, 128), (64,), 16, (1, 4), (8, 32), (4, 12), 0.02),
    "1b": PeerGrid((128, 512, 2048), (128, 1024), 64, (1, 4, 8, 16), (32, 128), (8, 24), 0.25),
}


def peer_cells(grid: PeerGrid, vocabulary: int, seed: int) -> list[PeerCell]:
    """Return all cells; `vocabulary` is the number of token ids to draw prompts from."""
    draw = random.Random(seed)

    def request(prompt: int, output: int, arrival: float = 0.0) -> PeerRequest:
        ids = draw.choices(range(vocabulary), k=prompt)
        return PeerRequest(tuple(ids), output, round(arrival, 4))

    def together(count: int) -> tuple[PeerRequest, ...]:
        arrival, found = 0.0, []
        for _ in range(count):
            lengths = draw.randint(*grid.prompt_bounds), draw.randint(*grid.output_bounds)
            found.append(request(*lengths, arrival))
            arrival += draw.expovariate(1 / grid.gap_seconds)
        return tuple(found)

    return [
        *(PeerCell("prefill", each, (request(each, 1),)) for each in grid.prompts),
        *(PeerCell("decode", n, (request(n, grid.decode_tokens),)) for n in grid.contexts),
        *(PeerCell("requests", each, together(each)) for each in grid.concurrencies),
    ]


def warm_up(grid: PeerGrid, vocabulary: int, seed: int) -> list[PeerRequest]:
    """Return what is run before any measurement: some short requests, for one and for several."""
    small = PeerGrid((), (), 0, (2,), *_SHORT, grid.gap_seconds)
    (cell,) = peer_cells(small, vocabulary, seed)
    return list(cell.requests)


_SHORT = (16, 16), (4, 4)


def _counts(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
