"""The timing cache: what TensorRT measured in earlier builds on the same GPU."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgellama.optimize.error import BuildError
from edgellama.optimize.tensorrt.library import RTX, knobs_of
from edgellama.optimize.tensorrt.report import Kept
from edgellama.profiles.cache_folder import cache_folder
from edgellama.profiles.profile import Profile
from edgellama.runtime.device import DeviceProperties

if TYPE_CHECKING:
    from edgellama.optimize.tensorrt.library import Config, Library


def cache_path(folder: Path, version: str, sm: int, driver: str, level: int) -> Path:
    """Return the file for one TensorRT, GPU, driver and optimisation level.

    Times measured under another of these do not hold, and TensorRT may refuse them.
    """
    name = f"tensorrt-{version}_sm{sm}_driver-{driver}_level{level}.cache"
    return folder / re.sub(r"[^\w.+-]", "-", name)


def read_cache(path: Path) -> bytes:
    """Return the bytes of a cache; none where the file is not there yet."""
    return path.read_bytes() if path.exists() else b""


def write_cache(path: Path, content: memoryview | bytes) -> None:
    """Replace the file at once: another build may read it at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class TimingCache:
    """The cache of one build: loaded before it, saved after it, or the reason why there is none."""

    def __init__(self, path: Path | None, reason: str | None, loaded: int) -> None:
        self._path = path
        self._loaded = loaded
        self._saved = loaded
        self.kept = Kept(None if path is None else str(path), reason)

    @staticmethod
    def for_build(
        library: Library,
        config: Config,
        profile: Profile,
        gpu: DeviceProperties | None,
        folder: Path | None,
    ) -> TimingCache:
        """Give the configuration the cache of this GPU; raises BuildError for one that is refused.

        `folder` None is the user's.
        """
        knobs = knobs_of(profile)
        if gpu is None:
            return TimingCache(None, f"{RTX} times kernels where the engine runs", 0)
        if not knobs.timing_cache:
            return TimingCache(None, "tensorrt.timing_cache is false", 0)
        if knobs.optimization_level == 0:
            return TimingCache(None, "tensorrt.optimization_level 0 times nothing", 0)
        sm = int(gpu.compute_capability.replace(".", ""))
        path = cache_path(
            folder or cache_folder("timing"),
            library.__version__,
            sm,
            gpu.driver,
            knobs.optimization_level,
        )
        content = read_cache(path)
        cache = config.create_timing_cache(content)
        if not config.set_timing_cache(cache, ignore_mismatch=False):
            raise BuildError(
                f"timing cache {path} ({len(content)} bytes) does not fit TensorRT "
                f"{library.__version__} on this GPU, or is damaged; remove it"
            )
        return TimingCache(path, None, len(content))

    def save(self, config: Config) -> None:
        """Write what the build added."""
        if self._path is None:
            return
        cache = config.get_timing_cache()
        assert cache is not None, "it was given to the configuration before the build"
        content = memoryview(cache.serialize())
        self._saved = content.nbytes
        write_cache(self._path, content)

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes before and after the build; more after it means that something was not in it."""
        return self._loaded, self._saved
