"""Draw calibration tokens from documents: seeded, packed, conversations by the chat template."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgellama.calibration.documents import Document
from edgellama.calibration.recipe import CalibrationError
from edgellama.runtime.text import TextCodec

# Characters a piece of a long text may have for each token of a sequence; more would be wasted
# work for the tokenizer, and no tokenizer of a Llama averages more.
_CHARACTERS_PER_TOKEN = 8


@dataclass(frozen=True)
class Samples:
    """Token ids to calibrate on, each sequence from position 0; `requested` tokens were asked for.

    `source` names the text, `length` bounds a sequence, `seed` chose the pieces.
    """

    sequences: tuple[tuple[int, ...], ...]
    source: str
    requested: int
    length: int
    seed: int

    @property
    def tokens(self) -> int:
        """Tokens in all sequences: fewer than requested where the text has fewer."""
        return sum(map(len, self.sequences))

    @property
    def sha256(self) -> str:
        """Digest of the ids and of where sequences begin."""
        return hashlib.sha256(json.dumps(self.sequences).encode()).hexdigest()


def draw_samples(
    documents: Iterable[Document],
    codec: TextCodec,
    *,
    source: str,
    tokens: int,
    length: int,
    seed: int,
) -> Samples:
    """Draw `tokens` tokens in sequences of at most `length` from pieces in random order.

    A text shorter than that is used whole and never repeated. Raises CalibrationError for a text
    without any token, and for a conversation where the model has no chat template.
    """
    generator = random.Random(seed)
    pieces = _reservoir(_pieces(documents, codec, length), tokens, generator)
    generator.shuffle(pieces)
    sequences: list[tuple[int, ...]] = []
    left = tokens
    for ids in _packed((_encode(piece, codec) for piece in pieces), codec, length):
        sequences.append(tuple(ids[:left]))
        left -= len(sequences[-1])
        if not left:
            break
    if not sequences:
        raise CalibrationError(f"{source}: holds no text; at least one token is needed")
    return Samples(tuple(sequences), source, tokens, length, seed)


def _pieces(documents: Iterable[Document], codec: TextCodec, length: int) -> Iterator[Document]:
    """Yield conversations whole, and texts in pieces of about a sequence or more."""
    for document in documents:
        if document.messages and (codec.has_chat_template or document.text is None):
            if not codec.has_chat_template:
                raise CalibrationError(
                    f"{document.origin}: has messages, but this model has no chat template; give "
                    "plain text, field 'text' in JSONL"
                )
            yield document
            continue
        assert document.text is not None, "a document has messages or text"
        for part in _cut(document.text, length * _CHARACTERS_PER_TOKEN):
            yield Document(document.origin, text=part)


def _cut(text: str, size: int) -> Iterator[str]:
    """Yield stretches of at most `size` characters that end at white space where there is any."""
    start = 0
    while start < len(text):
        stop = min(start + size, len(text))
        if stop < len(text):
            breaks = [text.rfind(mark, start + size // 2, stop) for mark in ("\n", " ")]
            stop = next((place for place in breaks if place > 0), stop)
        part = text[start:stop]
        if part.strip():
            yield part
        start = stop


def _reservoir(pieces: Iterable[Document], size: int, generator: random.Random) -> list[Document]:
    """Return `size` pieces chosen uniformly, or all; the rest never stays in memory."""
    kept: list[Document] = []
    for index, piece in enumerate(pieces):
        if index < size:
            kept.append(piece)
        else:
            place = generator.randrange(index + 1)
            if place < size:
                kept[place] = piece
    return kept


def _encode(piece: Document, codec: TextCodec) -> list[int]:
    if piece.messages:
        answered = piece.messages[-1].role == "assistant"
        return codec.encode_chat(list(piece.messages), add_generation_prompt=not answered)
    assert piece.text is not None
    return codec.encode(piece.text)


def _packed(pieces: Iterable[list[int]], codec: TextCodec, length: int) -> Iterator[list[int]]:
    """Yield sequences of `length` ids, pieces one behind the other; the last one may be shorter.

    A sequence that begins within a piece gets the BOS, if the tokenizer puts one before a text:
    a Llama attends to its first token as to no other.
    """
    bos = codec.generation.bos_id
    row: list[int] = []
    for ids in pieces:
        row += ids
        while len(row) > length:
            yield row[:length]
            rest = row[length:]
            cut = bos is not None and ids[0] == bos and rest[0] != bos
            row = [bos, *rest] if bos is not None and cut else rest
    if row:
        yield row
