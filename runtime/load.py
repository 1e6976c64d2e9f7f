"""Choose the backend that an engine was built for, and what it is loaded with."""

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


def greedy_form_of(directory: Path, manifest: Manifest, wanted: str | None) -> str:
    """Return the form of the weights for greedy requests, as in `Precision`; `wanted` None takes
    the profile's.

    Raises EngineError for one that is wanted where there is no choice.
    """
    if wanted is None:
        return manifest.profile.precision.greedy_form
    if manifest.batch_graph is None:
        raise EngineError(
            f"greedy_form is {wanted!r}, but engine {directory} has one form of weights; leave it "
            "out, or build it with precision.batch_weights"
        )
    return wanted
