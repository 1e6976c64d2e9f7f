"""A bundle: all that a device needs to finish an engine, sealed against alteration."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgellama.export.file_names import DATA_NAME, GRAPH_NAME
from edgellama.optimize.engine_folder import TEXT_FILES, require_replaceable
from edgellama.optimize.error import BuildError
from edgellama.optimize.expectation import EXPECTATION_NAME
from edgellama.optimize.kernels.kernel_files import KERNELS_NAME
from edgellama.profiles.profile import Profile
from edgellama.runtime.manifest import (
    EngineError,
    Kind,
    Manifest,
    check_files,
    file_sha256,
    read_manifest,
    write_manifest,
)

BUNDLE_NAME = "bundle.json"
SEAL_NAME = "bundle.sha256"
SCALES_FILES = ("scales.json", "scales.safetensors")
BUNDLE = Kind(
    "bundle",
    BUNDLE_NAME,
    (BUNDLE_NAME, SEAL_NAME),
    "make one with `edgellama build PROFILE --bundle`",
    "write the bundle again, or copy it again",
)
BUNDLE_FILES = (
    *BUNDLE.unlisted,
    GRAPH_NAME,
    DATA_NAME,
    EXPECTATION_NAME,
    KERNELS_NAME,
    *SCALES_FILES,
    *TEXT_FILES,
)


def seal_bundle(folder: Path, manifest: Manifest) -> None:
    """Write `bundle.json`, which has the digest of every other file, and its own digest."""
    write_manifest(folder, manifest, BUNDLE)
    digest = file_sha256(folder / BUNDLE_NAME)
    (folder / SEAL_NAME).write_text(f"{digest}  {BUNDLE_NAME}\n", encoding="ascii")


def sealed_manifest(folder: Path) -> Manifest:
    """Return the manifest of a bundle as it was sealed; its other files are not read yet.

    Raises EngineError for a folder without one, or when either file was altered.
    """
    path, seal = folder / BUNDLE_NAME, folder / SEAL_NAME
    if path.is_file():
        if not seal.is_file():
            raise EngineError(f"bundle {folder}: file {SEAL_NAME} is missing; {BUNDLE.again}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if seal.read_bytes() != f"{digest}  {BUNDLE_NAME}\n".encode():
            raise EngineError(
                f"bundle {folder}: file {BUNDLE_NAME} or {SEAL_NAME} was altered (they disagree); "
                f"{BUNDLE.again}"
            )
    return read_manifest(folder, BUNDLE)


def open_bundle(folder: Path) -> Manifest:
    """Return the manifest of an intact bundle.

    Raises EngineError that names the file that is missing, altered or not of the bundle.
    """
    manifest = sealed_manifest(folder)
    check_files(folder, manifest, BUNDLE)
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            raise EngineError(
                f"bundle {folder}: folder {path.name} is not listed in {BUNDLE_NAME}; remove it"
            )
    return manifest


def require_bundled(profile: Profile) -> None:
    """Raise BuildError for a profile whose engine needs no device to be finished."""
    if not profile.build.is_tensorrt:
        raise BuildError(
            f"profile {profile.name}: build.backend is {profile.build.backend!r}, whose engine is "
            "the same on every device; leave --bundle out and copy the engine"
        )


def require_output(profile: Profile, out: Path, *, bundle: bool) -> None:
    """Raise BuildError unless the profile has such an output and `out` may become it."""
    if bundle:
        require_bundled(profile)
        require_replaceable(out, BUNDLE, BUNDLE_FILES)
    else:
        require_replaceable(out)
