"""Choose the backend that an engine was built for."""

from __future__ import annotations

from pathlib import Path

from edgellama.runtime.backend import ScoringBackend
from edgellama.runtime.manifest import EngineError, Manifest


def load_backend(
    directory: Path, manifest: Manifest, *, threads: int | None = None
) -> ScoringBackend:
    """Open the graph of an engine directory; `threads` None takes the profile's.

    Raises EngineError, also for `threads` where no CPU computes.
    """
    # Each is imported where it is needed: a device has one of the libraries.
    if manifest.profile.build.is_tensorrt:
        if threads is not None:
            raise EngineError(
                f"threads is {threads}, but engine {directory} runs on a GPU; leave it out"
            )
        from edgellama.runtime.trt import TrtBackend

        return TrtBackend.load(directory, manifest)
    from edgellama.runtime.ort import OrtBackend

    return OrtBackend.load(directory, manifest, threads=threads)
