"""A measured number for people."""

from __future__ import annotations


def figure(value: object) -> str:
    """Return four digits of a float, which is more than a measurement has; the rest as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
