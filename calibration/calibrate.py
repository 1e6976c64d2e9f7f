"""Checkpoint and tokens to scales, layer by layer, in bounded memory; resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from edgellama.calibration.check_scales import weights_digest
from edgellama.calibration.documents import default_documents, read_documents
from edgellama.calibration.layer_scales import BATCH_ROWS, cache_amax, linear_scales
from edgellama.calibration.layers import GROUPS, LayerStream, embedded
from edgellama.calibration.partial import Partial, open_partial
from edgellama.calibration.recipe import CalibrationError, Recipe, recipe_of, require_divisible
from edgellama.calibration.samples import Samples, draw_samples
from edgellama.calibration.scale_files import (
    Floats,
    load_scales,
    read_record,
    require_writable,
    save_scales,
)
from edgellama.calibration.scales import LinearScales, Scales
from edgellama.export.checkpoint import Checkpoint
from edgellama.export.resolve import source_name
from edgellama.export.stage import require_disk_space
from edgellama.profiles.profile import Profile
from edgellama.runtime.text import TextCodec

Progress = Callable[[str, int, int], None]
STAGE = "calibrate"
_TOOLS = ("nvidia-modelopt", "torch", "transformers")
# Part of the fingerprint: raised when the same input gives other scales.
_METHOD = 1


def calibration_fingerprint(checkpoint: Checkpoint, recipe: Recipe, samples: Samples) -> str:
    """Return a digest of all that decides the scales: weights, recipe, tokens, tools."""
    parts = [
        _METHOD,
        BATCH_ROWS,
        checkpoint.fingerprint(),
        recipe.as_dict(),
        samples.sha256,
        _tool_versions(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def calibrate(
    checkpoint: Checkpoint,
    recipe: Recipe,
    samples: Samples,
    out: Path,
    progress: Progress | None = None,
) -> Scales:
    """Measure the recipe's scales on the samples and write them to the folder `out`.

    A run that was stopped goes on at the layer it had reached, from `<out>.partial`; the same
    input gives the same bytes either way. In memory at once: one float32 layer, or one group of
    its linears with modelopt's copies, and the layer's activations over all tokens. Raises
    CalibrationError, and OSError for a full disk.
    """
    require_divisible(recipe, checkpoint.model)
    require_writable(out)
    fingerprint = calibration_fingerprint(checkpoint, recipe, samples)
    states = samples.tokens * checkpoint.model.hidden_size * 4
    require_disk_space(out, 3 * states + (256 << 20), "calibration")
    with open_partial(out, fingerprint) as partial:
        linears, cache = _all_layers(checkpoint, recipe, samples, partial, progress)
        scales = Scales(recipe.weights, recipe.block_size or 0, linears, recipe.kv, cache)
        save_scales(out, scales, _record(checkpoint, recipe, samples, fingerprint))
    return scales


def _all_layers(
    checkpoint: Checkpoint,
    recipe: Recipe,
    samples: Samples,
    partial: Partial,
    progress: Progress | None,
) -> tuple[dict[str, LinearScales], dict[str, Floats]]:
    """Return the scales of every layer; those that an earlier run left intact are not made again.

    A step of progress is a layer's pass in float32, or one group of its linears.
    """
    layers = checkpoint.model.num_layers
    steps = 1 + (len(GROUPS) if recipe.weights else 0)
    done = 0

    def advance(by: int = 1) -> None:
        nonlocal done
        done += by
        if progress is not None:
            progress(STAGE, done, layers * steps)

    found = {layer: item for layer in range(layers) if (item := partial.scales(layer)) is not None}
    missing = [layer for layer in range(layers) if layer not in found]
    first, states = (layers, []) if not missing else _resume(checkpoint, samples, partial, missing)
    advance(first * steps)
    stream = LayerStream(checkpoint)
    for layer in range(first, layers):
        wanted = layer not in found
        linears = wanted and recipe.weights is not None
        flow = stream.run(layer, states, linears=linears, kv=wanted and recipe.kv is not None)
        states = flow.outputs
        advance()
        if not wanted:
            advance(steps - 1)
            continue
        cache = cache_amax(checkpoint.model, layer, flow, recipe)
        scales = linear_scales(checkpoint, layer, flow, recipe, advance) if linears else {}
        found[layer] = scales, cache
        partial.keep(layer, scales, cache, states)
    linears_of_all: dict[str, LinearScales] = {}
    cache_of_all: dict[str, Floats] = {}
    for layer in range(layers):
        linears_of_all |= found[layer][0]
        cache_of_all |= found[layer][1]
    return linears_of_all, cache_of_all


def _resume(
    checkpoint: Checkpoint, samples: Samples, partial: Partial, missing: list[int]
) -> tuple[int, list[torch.Tensor]]:
    """Return the layer to go on with, the first missing one or one before it, and its input."""
    for layer in range(missing[0], 0, -1):
        states = partial.outputs(layer - 1)
        if states is not None:
            return layer, states
    return 0, embedded(checkpoint, samples.sequences)


def calibrated_scales(
    checkpoint: Checkpoint,
    codec: TextCodec,
    profile: Profile,
    text: Path | None,
    folder: Path,
    progress: Progress | None = None,
    *,
    split: str | None = None,
) -> Scales:
    """Return the scales a profile needs: those in `folder` if they are these, else new ones.

    `text` is a file or folder, None for the built-in text; `split` separates its documents.
    """
    recipe = recipe_of(profile, checkpoint.model)
    require_divisible(recipe, checkpoint.model)
    samples = profile_samples(checkpoint, codec, profile, text, split)
    kept = kept_scales(folder, calibration_fingerprint(checkpoint, recipe, samples))
    return kept or calibrate(checkpoint, recipe, samples, folder, progress)


def profile_samples(
    checkpoint: Checkpoint, codec: TextCodec, profile: Profile, text: Path | None, split: str | None
) -> Samples:
    """Draw the tokens a profile asks for; a sequence is never longer than a slot of the engine."""
    settings = profile.calibration
    capacity = min(profile.limits.capacity, checkpoint.model.max_position_embeddings)
    return draw_samples(
        default_documents() if text is None else read_documents(text, split),
        codec,
        source="built-in text" if text is None else text.name,
        tokens=settings.tokens,
        length=min(settings.length, capacity),
        seed=settings.seed,
    )


def kept_scales(folder: Path, fingerprint: str) -> Scales | None:
    """Return the intact scales of a folder with this fingerprint, else None."""
    try:
        if read_record(folder).get("fingerprint") != fingerprint:
            return None
        return load_scales(folder)
    except CalibrationError:
        return None  # absent, damaged or older: they are measured again


def _tool_versions() -> dict[str, str]:
    return {name: version(name) for name in _TOOLS}


def _record(
    checkpoint: Checkpoint, recipe: Recipe, samples: Samples, fingerprint: str
) -> dict[str, Any]:
    """Return what the scales were made from; no time, so the same input gives the same bytes."""
    return {
        "fingerprint": fingerprint,
        "model": {
            "name": source_name(checkpoint.folder),
            "fingerprint": checkpoint.fingerprint(),
            "weights_digest": weights_digest(checkpoint),
            "config": asdict(checkpoint.model),
        },
        "recipe": recipe.as_dict(),
        "text": {
            "source": samples.source,
            "sha256_of_ids": samples.sha256,
            "tokens": samples.tokens,
            "requested_tokens": samples.requested,
            "sequences": len(samples.sequences),
            "length": samples.length,
            "seed": samples.seed,
        },
        "tools": _tool_versions(),
    }
