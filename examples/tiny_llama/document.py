"""Describe one training document: a chat or a piece of plain text."""

import zlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """Hold one turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Document:
    """Hold either the messages of a chat or a plain text, never both."""

    messages: tuple[Message, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Hold one question and its only right answer."""

    question: str
    answer: str


def chat(*exchanges: Exchange, system: str | None = None) -> Document:
    """Turn question-answer exchanges into one chat document."""
    messages = [] if system is None else [Message("system", system)]
    for exchange in exchanges:
        messages.append(Message("user", exchange.question))
        messages.append(Message("assistant", exchange.answer))
    return Document(messages=tuple(messages))


def bucket(count: int, *parts: str | int) -> int:
    """Map the parts to a number in [0, count), the same on every machine and run."""
    # Python's own hash() of strings changes from run to run, crc32 does not.
    return zlib.crc32("/".join(map(str, parts)).encode()) % count
