"""From which size of a step on an engine takes the second form of its weights."""

from __future__ import annotations

from typing import Any

from edgellama.runtime.backend import Backend
from edgellama.runtime.manifest import Manifest


def weight_forms(backend: Backend, manifest: Manifest) -> dict[str, Any]:
    """Return the forms of an engine that has two, and how far the second is from the first.

    `batch_from` is the number of tokens of a step from which on the second is taken, as the load
    measured it; None where the first was faster at every number that was tried. `from_first` is
    what the build measured of the distance, None where it did not.
    """
    from edgellama.runtime.ort import NEVER, OrtBackend

    assert isinstance(backend, OrtBackend), "only that one has two forms"
    limit = backend.batch_from
    precision = manifest.profile.precision
    return {
        "weights": precision.weights,
        "batch_weights": precision.batch_weights,
        "batch_from": None if limit == NEVER else limit,
        "from_first": manifest.verify.get("batch", {}).get("from_first"),
    }
