"""Give a staged engine an int8 cache, with scales from its own float cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from edgellama.calibration.cache import calibrate_cache, calibration_ids
from edgellama.optimize.passes.quantize_cache import quantize_cache
from edgellama.runtime.manifest import Manifest
from edgellama.runtime.ort import OrtBackend
from edgellama.runtime.text import TextCodec

Progress = Callable[[str, int, int], None]


def quantize_staged_cache(
    staging: Path, manifest: Manifest, codec: TextCodec, progress: Progress | None
) -> ir.Model:
    """Calibrate a staged float-cache engine and rewrite its graph, not its weights; returns it."""
    if progress is not None:
        progress("calibrate the cache", 0, 1)
    # One slot is enough, and the pool of all of them could be larger than the model.
    alone = replace(manifest, kv=replace(manifest.kv, slots=1))
    backend = OrtBackend.load(staging, alone)
    try:
        samples = calibration_ids(codec, manifest.kv.capacity)
        scales = calibrate_cache(backend, samples, manifest.profile.limits.prefill_chunk)
    finally:
        backend.close()
    model = ir.load(staging / manifest.graph)
    done = quantize_cache(model, scales.channels)
    assert done == manifest.kv.layers, f"{done} caches of {manifest.kv.layers} were quantised"
    ir.save(model, staging / manifest.graph)  # external data keeps its place in the data file
    return model
