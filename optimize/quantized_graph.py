"""Portable float graph to quantised portable graph: standard operators, one artefact a model."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from edgellama.calibration.scales import Scales
from edgellama.optimize.passes.half_storage import store_half
from edgellama.optimize.passes.pre_scales import fold_into_norms, fold_into_outputs, scale_inputs
from edgellama.optimize.passes.quantize_linears import quantize_linears
from edgellama.optimize.passes.quantize_tables import quantize_tables
from edgellama.optimize.passes.round_cache import CACHE_TYPES, round_cache
from edgellama.optimize.pipeline import BuildError, PassStep, run_passes
from edgellama.optimize.pre_scale_places import place_pre_scales
from edgellama.optimize.recipes import (
    HEAD,
    ROUNDED_TYPES,
    TABLE,
    Stored,
    layer_linears,
    linear_recipes,
    rounded_recipe,
)
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import FLOAT_PRECISIONS, Precision

HALF_TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def nothing_stored(_name: str) -> None:
    """Stand for a float checkpoint: no linear has codes."""


def _is_table(name: str) -> bool:
    return name in (HEAD, TABLE)


def _is_layer(name: str) -> bool:
    return name.startswith("model.layers.")


def float_type(model: ir.Model) -> ir.DataType:
    """Return the type that a portable graph computes in: that of its cache."""
    past = next(v for v in model.graph.inputs if (v.name or "").startswith("past_key_values."))
    assert past.dtype is not None
    return past.dtype


def _half_steps(model: ModelConfig, precision: Precision, dtype: ir.DataType) -> list[PassStep]:
    """Return the steps that store floats in 16 bits; a graph of 16 bits stores them so anyway."""
    if dtype != ir.DataType.FLOAT:
        return []
    steps = []
    if precision.weights in HALF_TYPES:
        run = partial(store_half, wanted=_is_layer, dtype=HALF_TYPES[precision.weights])
        steps.append(PassStep("half_storage", run, len(layer_linears(model))))
    if precision.embedding in HALF_TYPES:
        tables = partial(store_half, wanted=_is_table, dtype=HALF_TYPES[precision.embedding])
        steps.append(PassStep("half_tables", tables, 1 if model.tie_word_embeddings else 2))
    return steps


def _table_steps(model: ModelConfig, precision: Precision) -> list[PassStep]:
    """Return the steps that quantise embedding and head."""
    kind = precision.embedding
    if kind not in ROUNDED_TYPES:
        return []
    tables = partial(quantize_tables, dtype=ROUNDED_TYPES[kind], block_size=precision.block_size)
    steps = [PassStep("quantize_tables", tables, 1)]
    if not model.tie_word_embeddings:
        recipe = rounded_recipe((model.vocab_size, model.hidden_size), kind, precision)
        head = partial(quantize_linears, recipes={HEAD: recipe})
        steps.append(PassStep("quantize_head", head, 1))
    return steps


def _cache_steps(
    model: ModelConfig, precision: Precision, scales: Scales | None, dtype: ir.DataType
) -> list[PassStep]:
    """Return the step that rounds keys and values as a narrower cache does."""
    if precision.kv in FLOAT_PRECISIONS:
        return []
    if scales is None or scales.kv != precision.kv:
        raise BuildError(
            f"precision.kv is {precision.kv!r} but there are no such scales of the cache; "
            "calibrate the model first, or use kv 'fp32'"
        )
    run = partial(round_cache, cache=scales.cache, codes=CACHE_TYPES[precision.kv], dtype=dtype)
    return [PassStep("round_cache", run, model.num_layers)]


def quantize_portable(
    graph: ir.Model,
    model: ModelConfig,
    precision: Precision,
    scales: Scales | None = None,
    stored: Stored = nothing_stored,
) -> dict[str, int]:
    """Bring a portable float graph to a precision in place; returns the counts of its passes.

    Only standard operators are used: int4 and int8 weights are `DequantizeLinear(codes)`, fp8 and
    int8_sq quantise the input as well, 16-bit weights are cast, the embedding is gathered from a
    `DequantizeLinear`, keys and values of a narrower cache are rounded before they join the past.
    `stored` returns a linear as a quantised checkpoint has it, or None. Nothing is read or computed
    before the graph is written, and then one linear at a time.

    Raises BuildError where scales are missing or do not fit.
    """
    dtype = float_type(graph)
    recipes = linear_recipes(model, precision, scales, stored)
    cache_is_rounded = precision.kv not in FLOAT_PRECISIONS
    places = place_pre_scales(model, recipes, cache_is_rounded=cache_is_rounded)
    steps = (
        PassStep(
            "fold_into_norms", partial(fold_into_norms, norms=places.norms), len(places.norms)
        ),
        PassStep(
            "scale_inputs",
            partial(scale_inputs, inputs=places.inputs, dtype=dtype),
            len(places.inputs),
        ),
        PassStep("quantize_linears", partial(quantize_linears, recipes=recipes), len(recipes)),
        PassStep(
            "fold_into_outputs",
            partial(fold_into_outputs, outputs=places.outputs),
            len(places.outputs),
        ),
        *_table_steps(model, precision),
        *_half_steps(model, precision, dtype),
        *_cache_steps(model, precision, scales, dtype),
    )
    return run_passes(graph, tuple(step for step in steps if step.expected))
