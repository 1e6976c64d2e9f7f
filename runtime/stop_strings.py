"""Find stop strings in a text that arrives character by character."""

from __future__ import annotations

from collections.abc import Sequence


def _borders(text: str) -> list[int]:
    """Return, for each prefix, its longest proper prefix that is also its suffix (KMP, 1977)."""
    borders = [0] * len(text)
    length = 0
    for place in range(1, len(text)):
        while length and text[place] != text[length]:
            length = borders[length - 1]
        length += text[place] == text[length]
        borders[place] = length
    return borders


class StopStrings:
    """One Knuth-Morris-Pratt automaton a string: constant work a character, no look back.

    The match that is complete first wins, of several ending at one character the longest; so the
    outcome does not depend on how the text was cut into tokens.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        # Longest first: the first automaton to report is the one that wins.
        self._strings = sorted(set(strings), key=lambda text: (-len(text), text))
        self._borders = [_borders(text) for text in self._strings]
        self._lengths = [0] * len(self._strings)

    @property
    def held(self) -> int:
        """Characters at the end of the text that a stop string may still begin with."""
        return max(self._lengths, default=0)

    def advance(self, char: str, *, armed: bool) -> str | None:
        """Take one character; returns the string it completes. Unless `armed`, none counts."""
        match = None
        for row, text in enumerate(self._strings):
            borders, length = self._borders[row], self._lengths[row]
            while length and text[length] != char:
                length = borders[length - 1]
            length += text[length] == char
            if length == len(text):
                match = match or text
                length = borders[-1]
            self._lengths[row] = length
        return match if armed else None
