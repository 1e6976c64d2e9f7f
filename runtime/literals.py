"""Read JSON values and Python literals character by character; standard library only.

A reader is a generator that is sent one character after the other, "" for the end of the text. It
returns as soon as it is complete and raises Mismatch at the first character that cannot be right,
so what it has read is no more than must be held back. Whatever it reads, it returns JSON text with
", " and ": " between the parts: numbers and JSON's strings as they were written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Generator
from typing import TypeVar

from edgellama.runtime.tools import MAX_JSON_DEPTH

T = TypeVar("T")
Reader = Generator[None, str, T]

_BLANKS = frozenset(" \t\n\r")
_MAX_NUMBER_CHARS = 1_000  # Python reads 4,300 digits at most
_NUMBER_CHARS = frozenset("0123456789+-.eE")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_JSON_ESCAPES = frozenset('"\\/bfnrt')
_HEX = frozenset("0123456789abcdefABCDEF")
_CONSTANTS = {"true": "true", "false": "false", "null": "null"}
_PYTHON_CONSTANTS = {**_CONSTANTS, "True": "true", "False": "false", "None": "null"}
_PYTHON_ESCAPES = {
    **{char: char for char in "\\'\""},
    **dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True)),
    "\n": "",
}
_CODE_POINT_DIGITS = {"x": 2, "u": 4, "U": 8}


class Mismatch(Exception):
    """The text is not what the reader reads."""


def next_char(rest: str | None = None) -> Reader[str]:
    """Return the next character that is not blank; `rest` is one that was read already."""
    char = (yield) if rest is None else rest
    while char in _BLANKS:
        char = yield
    return char


def exactly(text: str) -> Reader[None]:
    """Read a text."""
    for wanted in text:
        if (yield) != wanted:
            raise Mismatch


def one_of(texts: Collection[str], end: str, begun: str = "") -> Reader[str]:
    """Read one of the texts and the character behind it, which is in none of them.

    `begun` is what was read of the text already.
    """
    text = begun
    while True:
        if not any(each.startswith(text) for each in texts):
            raise Mismatch
        char = yield
        if char == end and text in texts:
            return text
        if not char:
            raise Mismatch
        text += char


def json_object() -> Reader[str]:
    """Read a JSON object behind its opening brace."""
    return _collection("{", python=False, depth=1)


def keyword_arguments() -> Reader[str]:
    """Read the keyword arguments of a Python call behind its opening parenthesis, as an object."""
    found: dict[str, str] = {}
    char = yield from next_char()
    while char != ")":
        name = ""
        while char and (name + char).isidentifier():
            name, char = name + char, (yield)
        char = yield from next_char(char)
        if char != "=" or not name or name in found:
            raise Mismatch
        found[name], rest = yield from _value((yield from next_char()), python=True, depth=1)
        char = yield from next_char(rest)
        if char == ",":
            char = yield from next_char()
        elif char != ")":
            raise Mismatch
    items = (f"{json.dumps(name, ensure_ascii=False)}: {value}" for name, value in found.items())
    return "{" + ", ".join(items) + "}"


def _value(char: str, *, python: bool, depth: int) -> Reader[tuple[str, str | None]]:
    """Read a value whose first character is `char`; returns also what was read behind it."""
    if char == '"' or (python and char == "'"):
        return (yield from (_python_string(char) if python else _json_string())), None
    if char in ("{", "["):
        if depth == MAX_JSON_DEPTH:
            raise Mismatch
        return (yield from _collection(char, python=python, depth=depth + 1)), None
    if char == "-" or char in _NUMBER_CHARS - frozenset("+.eE"):
        return (yield from _number(char))
    return (yield from _constant(char, _PYTHON_CONSTANTS if python else _CONSTANTS)), None


def _collection(opening: str, *, python: bool, depth: int) -> Reader[str]:
    closing = "]" if opening == "[" else "}"
    items: list[str] = []
    char = yield from next_char()
    while char != closing:
        key = ""
        if opening == "{":
            if char != '"' and not (python and char == "'"):
                raise Mismatch
            key, _ = yield from _value(char, python=python, depth=depth)
            if (yield from next_char()) != ":":
                raise Mismatch
            key += ": "
            char = yield from next_char()
        value, rest = yield from _value(char, python=python, depth=depth)
        items.append(key + value)
        char = yield from next_char(rest)
        if char == ",":
            char = yield from next_char()
            if char == closing and not python:
                raise Mismatch
        elif char != closing:
            raise Mismatch
    return opening + ", ".join(items) + closing


def _number(char: str) -> Reader[tuple[str, str]]:
    text = ""
    while char in _NUMBER_CHARS:
        text, char = text + char, (yield)
        if len(text) > _MAX_NUMBER_CHARS:
            raise Mismatch
    found = _NUMBER.fullmatch(text)
    is_whole = found is not None and not (found[2] or found[3])
    # A number that no double holds could not be told to a template again.
    if found is None or not (is_whole or math.isfinite(float(text))):
        raise Mismatch
    return text, char


def _constant(char: str, constants: dict[str, str]) -> Reader[str]:
    text = char
    while text not in constants:
        if not text or not any(each.startswith(text) for each in constants):
            raise Mismatch
        char = yield
        if not char:
            raise Mismatch
        text += char
    return constants[text]


def _json_string() -> Reader[str]:
    pieces = ['"']
    while (char := (yield)) != '"':
        if char < " ":  # the end of the text too
            raise Mismatch
        pieces.append(char)
        if char == "\\":
            escape = yield
            pieces.append(escape)
            if escape == "u":
                pieces.append((yield from _hex_digits(4)))
            elif escape not in _JSON_ESCAPES:
                raise Mismatch
    text = "".join(pieces) + '"'
    if "\\u" in text and any("\ud800" <= char < "\ue000" for char in json.loads(text)):
        raise Mismatch  # half of a character
    return text


def _python_string(quote: str) -> Reader[str]:
    pieces: list[str] = []
    while (char := (yield)) != quote:
        if char in ("", "\n", "\r"):
            raise Mismatch
        pieces.append((yield from _python_escape()) if char == "\\" else char)
    return json.dumps("".join(pieces), ensure_ascii=False)


def _python_escape() -> Reader[str]:
    char = yield
    if char in _PYTHON_ESCAPES:
        return _PYTHON_ESCAPES[char]
    if char in _CODE_POINT_DIGITS:
        point = int((yield from _hex_digits(_CODE_POINT_DIGITS[char])), 16)
        if point > 0x10FFFF or 0xD800 <= point < 0xE000:
            raise Mismatch
        return chr(point)
    if not char or char in "01234567N\r":  # octal and named characters: nobody writes them
        raise Mismatch
    return "\\" + char  # as Python reads it


def _hex_digits(count: int) -> Reader[str]:
    digits = ""
    for _ in range(count):
        char = yield
        if char not in _HEX:
            raise Mismatch
        digits += char
    return digits
