"""The error of a profile, and the two checks that most fields need."""

from __future__ import annotations


class ProfileError(ValueError):
    """A profile that does not exist, or a field in it that is unknown, missing or out of range."""


def require_choice(field: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ProfileError unless `value` is one of the allowed."""
    if value not in allowed:
        listed = ", ".join(repr(item) for item in allowed)
        raise ProfileError(f"{field} is {value!r}; supported: {listed}")


def require_at_least(field: str, value: float, limit: float) -> None:
    """Raise ProfileError for a value below the limit."""
    if value < limit:
        raise ProfileError(f"{field} is {value!r}; it must be >= {limit}")
