"""Ranges of library versions: `>=10.16,<12`, `==11.4.0`, `>=11.4.1`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgellama.profiles.bounds import ProfileError

Version = tuple[int, ...]
_CLAUSE = re.compile(r"(>=|<|==)(\d+(?:\.\d+)*)")
_ENDLESS: Version = (1 << 31,)


def parse_version(text: str) -> Version:
    """Return the leading numbers of a version: `11.4.0.106` is (11, 4, 0, 106)."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    if found is None:
        raise ProfileError(f"version {text!r} does not begin with a number")
    return tuple(int(part) for part in found[0].split("."))


@dataclass(frozen=True)
class VersionRange:
    """The versions `[low, high)`; `text` is how it was written.

    `==11.4.0` stands for everything that begins so: 11.4.0 and 11.4.0.106, not 11.4.1.
    """

    text: str
    low: Version
    high: Version

    def __contains__(self, version: str) -> bool:
        """Whether a version lies in the range."""
        return self.low <= parse_version(version) < self.high

    def within(self, other: VersionRange) -> bool:
        """Whether every version of this range lies in the other."""
        return other.low <= self.low and self.high <= other.high


def parse_range(field: str, text: str) -> VersionRange:
    """Read a range; raises ProfileError that names the field."""
    low, high = Version(), _ENDLESS
    for clause in text.replace(" ", "").split(","):
        found = _CLAUSE.fullmatch(clause)
        if found is None:
            raise ProfileError(
                f"{field} is {text!r}; clauses `>=X`, `<Y` and `==X` joined by commas are needed, "
                "for example '>=10.16,<12'"
            )
        version = parse_version(found[2])
        if found[1] in (">=", "=="):
            low = max(low, version)
        if found[1] == "<":
            high = min(high, version)
        if found[1] == "==":
            high = min(high, (*version[:-1], version[-1] + 1))
    if low >= high:
        raise ProfileError(f"{field} is {text!r}, which no version satisfies")
    return VersionRange(text, low, high)
