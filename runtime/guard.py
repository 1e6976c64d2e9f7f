"""Keep special tokens that a user wrote from becoming special tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tokenizers import AddedToken

from edgellama.runtime.request import InvalidRequestError

_PRIVATE_USE = (0xE000, 0xF900)


class Guard:
    """Marks the special tokens in untrusted texts, so that a rendered text shows which are real.

    A mark is a private-use character that occurs in no text. It goes into the middle of each
    special token, and after an end that could begin one which the next text completes; so
    templates still trim, split and join the texts as they are.
    """

    def __init__(self, special_tokens: Mapping[int, AddedToken]) -> None:
        """Take the special tokens by id."""
        self._ids = {token.content: token_id for token_id, token in special_tokens.items()}
        longest_first = sorted(special_tokens.values(), key=lambda token: -len(token.content))
        self._written = _alternatives([re.escape(token.content) for token in longest_first])
        # Some tokens take the white space beside them along (tokenizers' AddedToken).
        self._parsed = _alternatives(
            [
                (r"\s*" if token.lstrip else "")
                + f"({re.escape(token.content)})"
                + (r"\s*" if token.rstrip else "")
                for token in longest_first
            ]
        )
        self._beginnings = {content[:n] for content in self._ids for n in range(1, len(content))}
        self._longest_beginning = max(map(len, self._beginnings), default=0)

    def mark(self, texts: Sequence[str], template: str) -> tuple[list[str], str]:
        """Return the texts with marks, and the mark; unchanged texts need no care."""
        used = set(template).union(*texts)
        mark = next((chr(c) for c in range(*_PRIVATE_USE) if chr(c) not in used), None)
        if mark is None:
            raise InvalidRequestError("chat", "uses every private-use character there is")
        return [self._mark(text, mark) for text in texts], mark

    def _mark(self, text: str, mark: str) -> str:
        text = self._written.sub(lambda found: found[0][0] + mark + found[0][1:], text)
        body = text.rstrip()
        for length in range(min(self._longest_beginning, len(body)), 0, -1):
            if body[-length:] in self._beginnings:
                return body + mark + text[len(body) :]
        return text

    def split(self, rendered: str, mark: str) -> list[int | str]:
        """Cut a rendered text into ids of its real special tokens and plain runs without marks."""
        parts: list[int | str] = []
        start = 0
        for found in self._parsed.finditer(rendered):
            parts.append(rendered[start : found.start()].replace(mark, ""))
            assert found.lastindex is not None, "each choice is a group"
            parts.append(self._ids[found[found.lastindex]])
            start = found.end()
        parts.append(rendered[start:].replace(mark, ""))
        return [part for part in parts if part != ""]


def _alternatives(patterns: Sequence[str]) -> re.Pattern[str]:
    """Compile a choice of patterns, the first that fits; of none, what matches nowhere."""
    return re.compile("|".join(patterns) or r"(?!)")
