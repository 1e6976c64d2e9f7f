"""The scales of one decoder layer, from what flowed through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgellama.calibration.cache_range import CacheRange, inverse_frequencies
from edgellama.calibration.layers import GROUPS, Flow, batches, group_weight, weight_name
from edgellama.calibration.modelopt import calibrate_linear
from edgellama.calibration.recipe import Recipe
from edgellama.calibration.scale_files import Floats
from edgellama.calibration.scales import LinearScales
from edgellama.export.checkpoint import Checkpoint
from edgellama.profiles.model import ModelConfig

# Rows that modelopt sees as one batch: its AWQ quantises the weight anew for each.
BATCH_ROWS = 512


def linear_scales(
    checkpoint: Checkpoint, layer: int, flow: Flow, recipe: Recipe, on_group: Callable[[], None]
) -> dict[str, LinearScales]:
    """Return the scales of a layer's linears by weight name; the recorded inputs are used up.

    Projections that read one input are calibrated as one linear, so they share one pre-scale,
    which folds into the norm before them; in fp8 they share one amax as well.
    """
    scales: dict[str, LinearScales] = {}
    for group in GROUPS:
        inputs = list(batches(flow.inputs.pop(group[0]), BATCH_ROWS))
        fused = calibrate_linear(group_weight(checkpoint, layer, group), inputs, recipe)
        start = 0
        for projection in group:
            name = weight_name(layer, projection)
            stop = start + checkpoint.tensors[name].shape[0]
            amax = fused.amax[start:stop] if fused.amax.ndim else fused.amax
            scales[name] = replace(fused, amax=amax)
            start = stop
        on_group()
    return scales


def cache_amax(model: ModelConfig, layer: int, flow: Flow, recipe: Recipe) -> dict[str, Floats]:
    """Return the largest magnitudes of a layer's cached keys and values by `N.key`, `N.value`."""
    if recipe.kv is None or recipe.granularity is None or recipe.capacity is None:
        return {}
    found = CacheRange(inverse_frequencies(model), recipe.capacity)
    for keys, values in zip(flow.keys, flow.values, strict=True):
        found.add(keys.numpy(), values.numpy())
    ranges = found.ranges(recipe.kv, recipe.granularity)
    return {f"{layer}.{kind}": amax for kind, amax in ranges.items()}
