"""One engine that is checked: its profile, its model, and where its files lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellama.profiles.profile import Profile, profile_from_dict


@dataclass(frozen=True)
class Subject:
    """An engine of `profile`; from a checkpoint `model` (a folder, a hub id or "tiny"), from random
    weights of a `size`, or from a given `bundle`: exactly one of the three.

    `twin` is the name of a subject whose engine must say the same.
    """

    name: str
    profile: Profile
    model: str | None = None
    size: str | None = None
    bundle: Path | None = None
    twin: str | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.model, self.size, self.bundle)) != 1:
            raise ValueError(f"subject {self.name}: give one of model, size and bundle")

    def folder(self, work: Path) -> Path:
        """Return the subject's scratch folder."""
        return work / slug(self.name)

    def bundle_folder(self, work: Path) -> Path:
        """Return the bundle: the given one, or where it is made."""
        return self.bundle if self.bundle is not None else self.folder(work) / "bundle"

    def engine_folder(self, work: Path) -> Path:
        """Return where the engine is built."""
        return self.folder(work) / "engine"

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "profile": self.profile.as_dict(),
            "model": self.model,
            "size": self.size,
            "bundle": None if self.bundle is None else str(self.bundle),
            "twin": self.twin,
        }


def subject_from_dict(raw: Mapping[str, Any]) -> Subject:
    """Read the JSON form back."""
    values = {
        **raw,
        "profile": profile_from_dict(raw["profile"], where=f"subject {raw['name']}"),
        "bundle": None if raw["bundle"] is None else Path(raw["bundle"]),
    }
    return Subject(**values)


def slug(name: str) -> str:
    """Return a name as one of a file."""
    return re.sub(r"[^\w.-]+", "-", name)
