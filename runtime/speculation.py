"""When guessed tokens are worth a run, and how many: from their acceptance and measured seconds."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from statistics import median

from edgellama.runtime.prompt_lookup import PromptLookup
from edgellama.runtime.sequence import Sequence

# Guessed tokens of a run: with the token before them a power of two.
SIZES = (1, 3, 7, 15, 31)
# The share of guesses that is supposed of a new sequence, and how fast what is seen replaces it.
_SUPPOSED, _RATE = 0.7, 0.1
# How fast a sequence whose guesses were bad is given another chance, a step.
_FORGIVEN = 0.003
# What a run with guesses must gain to be worth it: seconds are noisy.
_GAIN = 1.05
# Runs of a size before its seconds are believed, and that are remembered.
_TRIED, _KEPT = 2, 8


@dataclass
class _Guesses:
    """Of one sequence: its index, and the share of examined guesses that were right."""

    lookup: PromptLookup = field(default_factory=PromptLookup)
    acceptance: float = _SUPPOSED


class Speculation:
    """Chooses the guesses for a sequence that decodes alone; at most `draft_tokens` a run.

    A guess that is right saves a step, a wrong one costs what its run took longer: so a run takes
    that number of guesses whose tokens per second are the most, by the acceptance of this sequence
    and the seconds that runs of so many tokens took on this machine. With other rows in the step
    there are none: they would wait for it.

    It is told of seconds and reads no clock.
    """

    def __init__(self, draft_tokens: int) -> None:
        if draft_tokens < 1:
            raise ValueError(f"draft_tokens is {draft_tokens}; it must be >= 1")
        self._sizes = tuple(size for size in SIZES if size <= draft_tokens)
        self._guesses: dict[str, _Guesses] = {}
        self._seconds: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))

    def draft(self, sequence: Sequence) -> tuple[int, ...]:
        """Return the tokens that are guessed behind the newest; none where they do not pay."""
        room = sequence.max_new_tokens - len(sequence.output) - 1  # the run draws one more
        guesses = self._guesses.setdefault(sequence.id, _Guesses())
        size = self._best(guesses.acceptance, room)
        if size == 0:
            guesses.acceptance += _FORGIVEN * (_SUPPOSED - guesses.acceptance)
            return ()
        known = len(guesses.lookup)
        guesses.lookup.extend((*sequence.prompt, *sequence.output)[known:])
        return guesses.lookup.guess(size)

    def take(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        """Learn how many guesses of a run were right; the first wrong one ended it."""
        guesses = self._guesses[sequence.id]
        for examined in range(min(accepted + 1, drafted)):
            right = 1.0 if examined < accepted else 0.0
            guesses.acceptance += _RATE * (right - guesses.acceptance)

    def record(self, drafted: int, seconds: float) -> None:
        """Take the seconds of a step of one row and so many guesses, 0 for none."""
        self._seconds[drafted].append(seconds)

    def forget(self, sequence: Sequence) -> None:
        """Drop what is known of a sequence that ended."""
        self._guesses.pop(sequence.id, None)

    def _best(self, acceptance: float, room: int) -> int:
        """Return the number of guesses with the most tokens per second; 0 where none gains."""
        alone = self._seconds[0]
        if len(alone) < _TRIED:
            return 0
        best, most = 0, _GAIN / median(alone)
        for size in self._sizes:
            if size > room:
                break
            seconds = self._seconds[size]
            if len(seconds) < _TRIED:
                return size  # unknown: smaller ones first, and the next when this one is known
            speed = _expected(acceptance, size) / median(seconds)
            if speed > most:
                best, most = size, speed
        return best


def _expected(acceptance: float, size: int) -> float:
    """Return the tokens that a run with `size` guesses gives: a + a^2 + ... + a^size, and one.

    Leviathan, Kalman, Matias, Fast Inference from Transformers via Speculative Decoding, ICML 2023,
    equation 1, each guess being right with probability `acceptance`.
    """
    return sum(acceptance**i for i in range(size + 1))
