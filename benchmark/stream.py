"""When the tokens of one answer arrived, and the intervals that follow from it.

Definitions: TTFT is the first message with tokens minus the send. ITL are the gaps between tokens:
a message of k tokens after a gap g counts as k gaps of g / k, so merged messages do not look like
fewer, slower tokens. TPOT is the time after the first token divided by the tokens after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass
class StreamTimes:
    """Times in seconds on one monotonic clock; `arrivals` holds (time, number of tokens)."""

    sent: float
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    ended: float | None = None

    def arrive(self, now: float, tokens: int) -> None:
        """Note a message; one without tokens carries no time of a token."""
        if tokens:
            self.arrivals.append((now, tokens))

    @property
    def tokens(self) -> int:
        """Tokens that arrived."""
        return sum(count for _, count in self.arrivals)

    @property
    def ttft(self) -> float:
        """Seconds to the first token; raises ValueError when none came."""
        if not self.arrivals:
            raise ValueError("a stream without a token has no time to first token")
        return self.arrivals[0][0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds between neighbouring tokens after the first message."""
        return gaps_between([self], -math.inf, math.inf)

    @property
    def tpot(self) -> float | None:
        """Mean seconds a token after the first; None for fewer than two tokens."""
        if self.tokens < 2:
            return None
        return (self.arrivals[-1][0] - self.arrivals[0][0]) / (self.tokens - 1)


def gaps_between(streams: Sequence[StreamTimes], begin: float, end: float) -> list[float]:
    """Return the gaps in seconds between tokens whose middle lies in `[begin, end)`."""
    found: list[float] = []
    for stream in streams:
        for (before, _), (after, count) in pairwise(stream.arrivals):
            if begin <= (before + after) / 2 < end:
                found += [(after - before) / count] * count
    return found


def steady_rate(streams: list[StreamTimes]) -> float | None:
    """Return tokens/s of all streams while every one of them was decoding.

    The window opens with the last stream's first token and closes with the first stream's last
    one; None when the streams never decode together.
    """
    if not all(stream.arrivals for stream in streams):
        return None
    begin = max(stream.arrivals[0][0] for stream in streams)
    end = min(stream.arrivals[-1][0] for stream in streams)
    if end <= begin:
        return None
    tokens = sum(
        count for stream in streams for time, count in stream.arrivals if begin < time <= end
    )
    return tokens / (end - begin)
