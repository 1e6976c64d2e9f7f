"""Calibration documents: the text that the repository generates, or the user's files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellama.calibration.recipe import CalibrationError
from edgellama.calibration.text import default_dialogues, default_passages
from edgellama.runtime.chat import ROLES, ChatMessage

_LINES = ".jsonl"
_TEXT = ".txt"
_NEEDED = "needed: 'text', or 'messages' with role and content, or 'prompt' and 'completion'"
_Messages = tuple[ChatMessage, ...]


@dataclass(frozen=True)
class Document:
    """Plain text, a conversation, or both: the same content for models without and with chat."""

    origin: str
    text: str | None = None
    messages: _Messages = ()


def default_documents() -> Iterator[Document]:
    """Yield the built-in text."""
    for text in default_passages():
        yield Document("built-in text", text=text)
    for question, answer in default_dialogues():
        yield _exchange("built-in text", question, answer)


def read_documents(path: Path, split: str | None = None) -> Iterator[Document]:
    """Yield the documents of a file, or of every file in a folder, sorted by name.

    A `.jsonl` file has a document a line; every other file is UTF-8 text, one document, or
    several where `split` separates them. Raises CalibrationError naming file and line.
    """
    if split == "":
        raise CalibrationError("the separator of documents is empty; give one or leave it out")
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p, path))
        if not files:
            raise CalibrationError(f"{path}: an empty folder; {_TEXT} or {_LINES} files are needed")
        for file in files:
            if file.suffix not in (_TEXT, _LINES):
                raise CalibrationError(
                    f"{file}: a calibration folder holds {_TEXT} and {_LINES} files only; move it "
                    "away or name the files one by one"
                )
            yield from _read_file(file, split)
    elif path.is_file():
        yield from _read_file(path, split)
    else:
        raise CalibrationError(f"calibration text {path} does not exist")


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _read_file(file: Path, split: str | None) -> Iterator[Document]:
    if file.suffix == _LINES:
        yield from _read_lines(file)
        return
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error) from error
    for part in text.split(split) if split else [text]:
        if part.strip():
            yield Document(str(file), text=part.strip() if split else part)


def _not_utf8(file: Path, error: UnicodeDecodeError) -> CalibrationError:
    return CalibrationError(
        f"{file}: not UTF-8 ({error.reason} at byte {error.start}); convert the file to UTF-8"
    )


def _read_lines(file: Path) -> Iterator[Document]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            origin = f"{file}: line {number}"
            try:
                raw = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise CalibrationError(f"{origin}: not UTF-8 ({error.reason})") from error
            except json.JSONDecodeError as error:
                raise CalibrationError(f"{origin}: not JSON ({error})") from error
            if not isinstance(raw, Mapping):
                raise CalibrationError(f"{origin}: a {type(raw).__name__}; {_NEEDED}")
            yield _from_fields(origin, raw)


def _from_fields(origin: str, raw: Mapping[str, Any]) -> Document:
    if "messages" in raw:
        return Document(origin, messages=_messages(origin, "messages", raw["messages"]))
    if "prompt" in raw and "completion" in raw:
        prompt, completion = raw["prompt"], raw["completion"]
        if isinstance(prompt, list) and isinstance(completion, list):
            both = _messages(origin, "prompt", prompt) + _messages(origin, "completion", completion)
            return Document(origin, messages=both)
        return _exchange(
            origin, _text(origin, "prompt", prompt), _text(origin, "completion", completion)
        )
    if "text" in raw:
        return Document(origin, text=_text(origin, "text", raw["text"]))
    keys = ", ".join(map(repr, raw)) or "no field"
    raise CalibrationError(f"{origin}: has {keys}; {_NEEDED}")


def _exchange(origin: str, prompt: str, completion: str) -> Document:
    messages = (ChatMessage("user", prompt), ChatMessage("assistant", completion))
    gap = "" if prompt[-1:].isspace() or completion[:1].isspace() else " "
    return Document(origin, text=prompt + gap + completion, messages=messages)


def _text(origin: str, field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise CalibrationError(f"{origin}: {field!r} is a {type(value).__name__}; text is needed")
    return value


def _messages(origin: str, field: str, value: Any) -> _Messages:
    if not isinstance(value, list) or not value:
        raise CalibrationError(f"{origin}: {field!r} must be a list of messages, one at least")
    messages = []
    for index, item in enumerate(value):
        where = f"{field}[{index}]"
        if not isinstance(item, Mapping) or not {"role", "content"} <= set(item):
            raise CalibrationError(f"{origin}: {where} needs 'role' and 'content'")
        if item["role"] not in ROLES:
            raise CalibrationError(
                f"{origin}: {where} has role {item['role']!r}; known: {', '.join(ROLES)}"
            )
        messages.append(ChatMessage(item["role"], _text(origin, where, item["content"])))
    return tuple(messages)
