"""One TOML table to one frozen record, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_args, get_origin, get_type_hints

from edgellama.profiles.bounds import ProfileError


def _fits(value: object, wanted: Any) -> bool:
    """Whether a value of a TOML or JSON file has the type of a field."""
    if get_origin(wanted) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if get_origin(wanted) is Mapping:
        return isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values())
    if wanted is bool:
        return isinstance(value, bool)
    return isinstance(value, wanted) and not isinstance(value, bool)


def record_from_table(where: str, kind: type[Any], raw: Mapping[str, Any]) -> Any:
    """Build one record from a table; raises ProfileError for a key that is unknown or missing, or
    has a value of another type."""
    known = {item.name: item for item in fields(kind)}
    for key in raw:
        if key not in known:
            raise ProfileError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, item in known.items():
        if name not in raw:
            if item.default is MISSING:
                raise ProfileError(f"{where}: key {name!r} is missing")
            continue
        value, wanted = raw[name], hints[name]
        is_count = isinstance(value, int) and not isinstance(value, bool)
        if wanted in (float, float | None) and is_count:
            value = float(value)
        if get_origin(wanted) is tuple and isinstance(value, list):
            value = tuple(value)
        if not _fits(value, wanted):
            of = get_args(wanted)
            name_of = getattr(wanted, "__name__", str(wanted))
            type_name = f"list of {of[0].__name__}" if get_origin(wanted) is tuple else name_of
            raise ProfileError(
                f"{where}: {name} is {value!r}; a value of type {type_name} is needed"
            )
        values[name] = value
    return kind(**values)
