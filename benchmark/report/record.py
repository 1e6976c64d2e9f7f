"""Strict reading of plain JSON into records: what is wrong is named by its place in the file.

Keys that a record does not have are left alone: a newer measurement may say more, and the page
shows the whole document at its end.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_MOST_SHOWN = 60  # characters of a wrong value in an error


class DocumentError(ValueError):
    """A document that cannot be read; `field` is the place, from the top: `latency.steps[2].ms`."""

    def __init__(self, field: str, problem: str, *, file: Path | None = None) -> None:
        place = f"{file}: " if file is not None else ""
        super().__init__(f"{place}{field or 'the document'} {problem}")
        self.field = field
        self.problem = problem


def read_record(record: type[T], raw: object, where: str) -> T:
    """Return a dataclass made of a JSON object; `where` is its place in the document.

    A key whose type allows None may be absent or null. Raises DocumentError for a missing key, a
    wrong type, a number that is not finite, and for what the record itself refuses.
    """
    if not isinstance(raw, Mapping):
        raise DocumentError(where, f"is {_shown(raw)}, it must be an object")
    values, hints = {}, get_type_hints(record)
    for field in dataclasses.fields(record):  # type: ignore[arg-type] # every caller gives one
        place = f"{where}.{field.name}" if where else field.name
        wanted = hints[field.name]
        value = raw.get(field.name)
        if value is None and not _allows_none(wanted):
            problem = "is null" if field.name in raw else "is missing"
            raise DocumentError(place, f"{problem}; measure again with this version of edgellama")
        values[field.name] = _value(wanted, value, place)
    try:
        return record(**values)
    except ValueError as error:
        raise DocumentError(where, str(error)) from error


def _value(wanted: Any, raw: object, where: str) -> Any:
    """Return one value as `wanted`, which may be nested."""
    if raw is None and _allows_none(wanted):
        return None
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return _one_of([kind for kind in arguments if kind is not type(None)], raw, where)
    if dataclasses.is_dataclass(wanted):
        assert isinstance(wanted, type)
        return read_record(wanted, raw, where)
    if origin is tuple:
        if not isinstance(raw, list):
            raise DocumentError(where, f"is {_shown(raw)}, it must be a list")
        return tuple(_value(arguments[0], one, f"{where}[{i}]") for i, one in enumerate(raw))
    if origin is dict:
        if not isinstance(raw, Mapping):
            raise DocumentError(where, f"is {_shown(raw)}, it must be an object")
        return {str(key): _value(arguments[1], one, f"{where}.{key}") for key, one in raw.items()}
    if wanted is Any:
        return raw
    check, what = _PLAIN[wanted]
    if not check(raw):
        raise DocumentError(where, f"is {_shown(raw)}, it must be {what}")
    return raw


def _one_of(kinds: list[Any], raw: object, where: str) -> Any:
    """Return a value of one of several types: a plain number, or an object."""
    if len(kinds) > 1 and isinstance(raw, Mapping):
        kinds = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    elif len(kinds) > 1:
        kinds = [kind for kind in kinds if not dataclasses.is_dataclass(kind)]
    return _value(kinds[0], raw, where)


def _allows_none(wanted: Any) -> bool:
    return wanted is Any or type(None) in get_args(wanted)


def _is_number(raw: object) -> bool:
    return isinstance(raw, int | float) and not isinstance(raw, bool) and math.isfinite(raw)


_PLAIN: dict[Any, tuple[Callable[[object], bool], str]] = {
    bool: (lambda raw: isinstance(raw, bool), "true or false"),
    int: (lambda raw: isinstance(raw, int) and not isinstance(raw, bool), "a whole number"),
    float: (_is_number, "a finite number"),
    str: (lambda raw: isinstance(raw, str), "a text"),
}


def _shown(raw: object) -> str:
    """Return a value as JSON has it, cut where it is long."""
    text = json.dumps(raw, ensure_ascii=False)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
