"""Anything that a document says beside its tables, as lines of a name and a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgellama.benchmark.report.number import number, percent, size

_SERIES, _PERCENTILES = {"n", "median", "low", "high"}, {"n", "p50", "p95"}


def facts(raw: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield every figure and word of a plain value, nested names joined; None is left out."""
    if raw is None or raw in ("", [], {}):
        return
    if isinstance(raw, Mapping) and not raw.keys() >= _SERIES and not raw.keys() >= _PERCENTILES:
        for key, value in raw.items():
            yield from facts(value, f"{name} {_words(str(key))}".strip())
    elif isinstance(raw, list) and any(isinstance(one, Mapping | list) for one in raw):
        for place, value in enumerate(raw):
            yield from facts(value, f"{name} {place + 1}".strip())
    else:
        yield name, text_of(raw, name)


def text_of(raw: object, name: str = "") -> str:
    """Return one value for people; the end of its name says whether it is bytes."""
    if isinstance(raw, bool):
        return "yes" if raw else "no"
    if isinstance(raw, int | float):
        if name.endswith(" bytes"):
            return size(raw)
        return percent(raw) if name.endswith(" share") else number(raw)
    if isinstance(raw, Mapping):
        return _figure(raw)
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        return ", ".join(map(text_of, raw))
    return str(raw)


def _figure(raw: Mapping[str, Any]) -> str:
    """Return a series or percentiles in one line."""
    if "median" in raw:
        spread = percent(raw.get("spread"))
        return f"{number(raw['median'])} (spread {spread}, n {raw['n']})"
    shown = ", ".join(f"{key} {number(raw[key])}" for key in raw if key.startswith("p"))
    return f"{shown} (n {raw['n']})"


def _words(key: str) -> str:
    """Return a key as words; the unit at its end stays with it."""
    return key.replace("_", " ")
