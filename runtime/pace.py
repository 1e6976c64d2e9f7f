"""How many tokens of a prompt a step may carry beside running rows, from what steps have taken."""

from __future__ import annotations

from collections import defaultdict, deque
from statistics import median, median_low

# The least tokens of a chunk; the others are twice the one before, up to the whole chunk.
_LEAST = 4
# Steps remembered of a kind. Their median counts: other work of the machine only disturbs some.
_KEPT = 7
# Steps with a chunk, of as many rows, behind which one goes without: to time the rows again.
_TIMED_EVERY = 32
# Steps with a chunk after which a size that was too slow may be tried again. Two steps are then too
# slow at most, less than one in a hundred.
_TRIED_EVERY = 256


class Pace:
    """Keeps a step with a chunk within `slowdown` times the seconds that its rows take alone.

    What rows take alone is known from steps without a chunk. Where none of as many rows was seen
    yet, or not for long, the next goes without its chunk. What a chunk adds is known by its size. A
    size that was not seen yet, or not for long, is tried when the one below it is fast enough.

    It only counts seconds that it is told of and reads no clock.
    """

    def __init__(self, slowdown: float, prefill_chunk: int) -> None:
        if slowdown <= 1:
            raise ValueError(f"slowdown is {slowdown}; it must be > 1")
        self._slowdown = slowdown
        self._sizes = _sizes(prefill_chunk)
        self._alone: dict[int, deque[float]] = defaultdict(_last)  # seconds by rows
        self._added: dict[int, deque[float]] = defaultdict(_last)  # seconds by tokens of the chunk
        self._since: dict[int, int] = defaultdict(int)  # steps since rows were alone, by rows
        self._tried: dict[int, int] = {}  # the last step with a chunk, by its tokens
        self._steps = 0  # with a chunk beside rows

    def chunk_tokens(self, rows: int) -> int | None:
        """Return the most tokens of a chunk beside `rows`; 0 for none now, None for any number."""
        if rows == 0:
            return None
        if not self._alone[rows] or self._since[rows] >= _TIMED_EVERY:
            return 0
        spare = (self._slowdown - 1) * median(self._alone[rows])
        fast = [size for size in self._sizes if self._is_known(size) and self._adds(size) <= spare]
        larger = [size for size in self._sizes if not fast or size > fast[-1]]
        if larger and self._may_try(larger[0], spare):
            return larger[0]
        return fast[-1] if fast else self._sizes[0]

    def record(self, rows: int, chunk: int, seconds: float) -> None:
        """Take the seconds of a step of `rows` and a chunk of so many tokens, 0 for none."""
        if not chunk:
            self._alone[rows].append(seconds)
            self._since[rows] = 0
        elif rows and self._alone[rows]:
            self._since[rows] += 1
            self._steps += 1
            if chunk in self._sizes:  # a prompt's last is often smaller
                if not self._is_known(chunk):
                    self._added[chunk].clear()
                self._added[chunk].append(seconds - median(self._alone[rows]))
                self._tried[chunk] = self._steps

    def _may_try(self, chunk: int, spare: float) -> bool:
        """Whether a size is worth a step that was not fast enough, as far as is known."""
        if not self._is_known(chunk) or len(self._added[chunk]) == 1:
            return True  # a single slow step may be the machine's other work
        was_fast = min(self._added[chunk]) <= spare
        return was_fast and self._steps - self._tried[chunk] >= _TIMED_EVERY

    def _is_known(self, chunk: int) -> bool:
        tried = self._tried.get(chunk)
        return tried is not None and self._steps - tried < _TRIED_EVERY

    def _adds(self, chunk: int) -> float:
        return median_low(self._added[chunk])


def _sizes(prefill_chunk: int) -> tuple[int, ...]:
    sizes = [min(_LEAST, prefill_chunk)]
    while sizes[-1] < prefill_chunk:
        sizes.append(min(2 * sizes[-1], prefill_chunk))
    return tuple(sizes)


def _last() -> deque[float]:
    return deque(maxlen=_KEPT)
