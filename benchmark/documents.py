"""The documents of a text file, one in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgellama.benchmark.language_model import EvaluationError

_READ = 1 << 16
# The longest token of Llama 3 is 128 spaces. What lies beyond this many characters for each token
# of the capacity can only be cut.
CHARACTERS_PER_TOKEN = 256


def documents(path: Path, split: str | None, longest: int) -> Iterator[tuple[str, int]]:
    """Yield (stripped document, bytes of the file read so far), one document held at a time.

    Empty documents are left out; of each at most the first `longest` characters are kept.
    Raises EvaluationError for a text that is not UTF-8 and for an empty separator.
    """
    if split == "":
        raise EvaluationError("the separator of documents is empty; leave it out for one document")
    reach = len(split) - 1 if split else 0
    done, head, tail = 0, "", ""
    for piece in _pieces(path):
        done += len(piece.encode())
        text = tail + piece
        *whole, text = text.split(split) if split else [text]
        for part in whole:
            document = (head + part).lstrip()[:longest].strip()
            head = ""
            if document:
                yield document, done
        # The end may be the beginning of a separator, which the next piece completes.
        end = max(0, len(text) - reach)
        if len(head) < longest:
            head = (head + text[:end]).lstrip()[:longest]
        tail = text[end:]
    document = (head + tail).lstrip()[:longest].strip()
    if document:
        yield document, done


def _pieces(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as stream:
        try:
            while piece := stream.read(_READ):
                yield piece
        except UnicodeDecodeError as error:
            raise EvaluationError(f"{path} is not UTF-8: {error}") from error
