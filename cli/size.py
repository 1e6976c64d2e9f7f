"""Sizes in words."""

from __future__ import annotations


def size(count: int) -> str:
    """Return bytes as a short text in binary units, for example `1.21 GiB`."""
    value, unit = float(count), "B"
    for bigger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, bigger
    return f"{count} B" if unit == "B" else f"{value:.2f} {unit}"
