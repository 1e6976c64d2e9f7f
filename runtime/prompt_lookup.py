"""Guess the next tokens of a sequence: what followed the last time that it said the same."""

from __future__ import annotations

# Tokens that must be the same for a guess, the most first.
_LONGEST, _SHORTEST = 4, 2


class PromptLookup:
    """An index of the n-grams of one sequence, prompt and output, kept up as it grows.

    Prompt lookup decoding: answers repeat names, code and quotes of their prompt and of themselves.
    """

    def __init__(self) -> None:
        self._tokens: list[int] = []
        # Where each n-gram ended last, before the newest token.
        self._ends: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: tuple[int, ...]) -> None:
        """Take the tokens behind those that it has."""
        for token in tokens:
            end = len(self._tokens)
            for length in range(_SHORTEST, min(_LONGEST, end) + 1):
                self._ends[tuple(self._tokens[end - length :])] = end
            self._tokens.append(token)

    def __len__(self) -> int:
        return len(self._tokens)

    def guess(self, most: int) -> tuple[int, ...]:
        """Return at most `most` tokens that may come next; none where nothing is repeated.

        Where what followed reaches the end of the sequence, it goes on as if that repeated too.
        """
        end = len(self._tokens)
        for length in range(min(_LONGEST, end), _SHORTEST - 1, -1):
            start = self._ends.get(tuple(self._tokens[end - length :]))
            if start is not None:
                period = end - start
                return tuple(self._tokens[start + i % period] for i in range(most))
        return ()
