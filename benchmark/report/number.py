"""Figures as people read them: as many digits as a measurement has, thousands apart."""

from __future__ import annotations

_DIGITS = 4
# By their names, for they look like a letter and a hyphen.
TIMES, EN_DASH = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"


def number(value: float | None) -> str:
    """Return four significant digits, or all digits of a whole number; a dash for None."""
    if value is None:
        return EN_DASH
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:.{_DIGITS}g}"
    if abs(float(text)) >= 10 ** (_DIGITS - 1):
        return f"{value:,.0f}"
    return text


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction as a percentage."""
    return EN_DASH if value is None else f"{100 * value:.{digits}f} %"


def size(value: float | None) -> str:
    """Return bytes in the unit that gives one to four digits."""
    if value is None:
        return EN_DASH
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}" if value < 1e12 else f"{value / 1e9:,.0f} GB"
    return f"{value:.0f} B"


def milliseconds(value: float | None) -> str:
    """Return a time with its unit: seconds from 10,000 ms on."""
    if value is None:
        return EN_DASH
    return f"{number(value / 1e3)} s" if value >= 10**_DIGITS else f"{number(value)} ms"


def short(value: float) -> str:
    """Return at most three significant digits, for a label in a plot."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.0e}"


def clip(text: object, length: int = 28) -> str:
    """Return a name that fits a label: printable, and cut where it is long."""
    clean = "".join(sign for sign in str(text) if sign.isprintable())
    return clean if len(clean) <= length else f"{clean[: length - 1]}…"
