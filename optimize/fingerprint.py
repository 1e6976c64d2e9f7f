"""What decides an engine or a bundle, as one digest, and whether a folder already has it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from edgellama.optimize.bundle import BUNDLE, sealed_manifest
from edgellama.optimize.quantization import Given
from edgellama.optimize.source import Source
from edgellama.profiles.profile import Profile
from edgellama.runtime.manifest import (
    ENGINE,
    EngineError,
    Kind,
    Manifest,
    check_files,
    read_manifest,
)


def fingerprint_of(
    source: Source, profile: Profile, given: Given, versions: Mapping[str, str]
) -> str:
    """Return a digest of all that decides the result: weights, profile, given files, tools.

    `versions` are those of the tools; a plan is for the version of TensorRT that built it.
    """
    parts = [source.fingerprint(), profile.as_dict(), given.digest(), dict(versions)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def unchanged(out: Path, fingerprint: str, kind: Kind = ENGINE) -> Manifest | None:
    """Return the manifest of an intact engine or bundle with this fingerprint."""
    try:
        manifest = sealed_manifest(out) if kind is BUNDLE else read_manifest(out)
        if manifest.fingerprint != fingerprint:
            return None
        check_files(out, manifest, kind)
    except EngineError:
        return None  # absent, damaged or older: it is built again
    return manifest
