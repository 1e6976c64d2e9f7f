"""Pack tokenized documents into rows of fixed length and rows into batches."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer

from edgellama.examples.tiny_llama.document import Document
from edgellama.examples.tiny_llama.shape import CONTEXT
from edgellama.examples.tiny_llama.tokenizer import render

SHORT_ROW = 128
BATCH_TOKENS = 2048
_OPEN_ROWS = 32


@dataclass(slots=True)
class Row:
    """Hold the tokens of whole documents, the document of each token and what is learned."""

    tokens: list[int] = field(default_factory=list)
    document: list[int] = field(default_factory=list)
    learned: list[bool] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batch:
    """Hold one training step.

    tokens: [rows, length] int64. mask: [rows, 1, length, length] bool, true where a token may
    look. places: [n] int64 into the flattened tokens. targets: [n] int64, the token after each
    place.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor


def learned(tokens: Sequence[int], tokenizer: Tokenizer) -> list[bool]:
    """Mark the tokens to learn: answers with their end, or all of a plain text but its start."""
    start = tokenizer.token_to_id("<|start_header_id|>")
    if start not in tokens:
        return [False] + [True] * (len(tokens) - 1)
    end_header = tokenizer.token_to_id("<|end_header_id|>")
    end_turn = tokenizer.token_to_id("<|eot_id|>")
    assistant = tokenizer.encode("assistant", add_special_tokens=False).ids
    marks = [False] * len(tokens)
    # An answer begins after the end of its header and the blank line, which is one token.
    head = [start, *assistant, end_header]
    place = 0
    while place < len(tokens):
        if list(tokens[place : place + len(head)]) == head:
            place += len(head) + 1
            while tokens[place] != end_turn:
                marks[place] = True
                place += 1
            marks[place] = True
        place += 1
    return marks


def _encoded(documents: Sequence[Document], tokenizer: Tokenizer) -> Iterator[list[int]]:
    # Encodings are large, so only a few hundred exist at once.
    for start in range(0, len(documents), 512):
        texts = [render(document) for document in documents[start : start + 512]]
        for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
            yield encoding.ids


def pack(documents: Sequence[Document], tokenizer: Tokenizer) -> tuple[list[Row], list[Row]]:
    """Pack documents into rows of at most SHORT_ROW and rows of at most CONTEXT tokens."""
    closed: dict[int, list[Row]] = {SHORT_ROW: [], CONTEXT: []}
    opened: dict[int, list[Row]] = {SHORT_ROW: [], CONTEXT: []}
    for number, tokens in enumerate(_encoded(documents, tokenizer)):
        if len(tokens) > CONTEXT:
            continue
        length = SHORT_ROW if len(tokens) <= SHORT_ROW else CONTEXT
        rows = opened[length]
        fitting = (row for row in rows if len(row.tokens) + len(tokens) <= length)
        row = next(fitting, None)
        if row is None:
            row = Row()
            rows.append(row)
            if len(rows) > _OPEN_ROWS:
                closed[length].append(rows.pop(0))
        row.tokens += tokens
        row.document += [number] * len(tokens)
        row.learned += learned(tokens, tokenizer)
    return (
        closed[SHORT_ROW] + opened[SHORT_ROW],
        closed[CONTEXT] + opened[CONTEXT],
    )


def _batch(rows: Sequence[Row], length: int, pad: int) -> Batch:
    tokens = torch.full((len(rows), length), pad)
    # Padding counts as one more document: it then sees itself and no softmax is empty.
    document = torch.full((len(rows), length), -1)
    marks = torch.zeros((len(rows), length), dtype=torch.bool)
    for index, row in enumerate(rows):
        size = len(row.tokens)
        tokens[index, :size] = torch.tensor(row.tokens)
        document[index, :size] = torch.tensor(row.document)
        marks[index, :size] = torch.tensor(row.learned)
    causal = torch.ones((length, length), dtype=torch.bool).tril()
    mask = (document[:, :, None] == document[:, None, :]) & causal
    # A place predicts the token after it; the last token of a row predicts nothing.
    places = torch.nn.functional.pad(marks[:, 1:], (0, 1)).flatten().nonzero().squeeze(1)
    return Batch(tokens, mask[:, None], places, tokens.flatten()[places + 1])


def batches(documents: Sequence[Document], tokenizer: Tokenizer, seed: int) -> Iterator[Batch]:
    """Yield batches of BATCH_TOKENS tokens for ever, in a new order each time around."""
    rng = random.Random(seed)
    short, long = pack(documents, tokenizer)
    pad = tokenizer.token_to_id("<|finetune_right_pad_id|>")
    while True:
        groups: list[tuple[int, list[Row]]] = []
        for length, rows in ((SHORT_ROW, short), (CONTEXT, long)):
            rng.shuffle(rows)
            size = BATCH_TOKENS // length
            # The few rows that fill no whole batch come again in the next round.
            groups += [
                (length, rows[at : at + size]) for at in range(0, len(rows) - size + 1, size)
            ]
        if not groups:
            raise ValueError(
                f"corpus of {len(documents)} documents fills no batch of {BATCH_TOKENS} tokens:"
                " use more documents"
            )
        rng.shuffle(groups)
        for length, rows in groups:
            yield _batch(rows, length, pad)
