"""How each linear is quantised: a table made from the profile, the scales and the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from edgellama.calibration.scales import LinearScales, Scales
from edgellama.export.checkpoint import expected_tensors
from edgellama.export.stored import StoredLinear
from edgellama.optimize.float_rows import Floats
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.quantized_weight import (
    CalibratedWeight,
    Layout,
    QuantizedWeight,
    RoundedWeight,
    StoredWeight,
    scale_of,
)
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import CALIBRATED_WEIGHTS, Precision

Stored: TypeAlias = Callable[[str], StoredLinear | None]
HEAD = "lm_head.weight"
TABLE = "model.embed_tokens.weight"
# Rounded to nearest, without calibration.
ROUNDED_TYPES = {"int8": ir.DataType.INT8, "int4_rtn": ir.DataType.INT4}
CALIBRATED_TYPES = {
    "int4_awq": ir.DataType.INT4,
    "int8_sq": ir.DataType.INT8,
    "fp8": ir.DataType.FLOAT8E4M3FN,
}
QUANTIZED_INPUTS = ("int8_sq", "fp8")
# Projections that read one tensor.
GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


@dataclass(frozen=True, eq=False)
class Recipe:
    """What becomes of one linear's float tensor `[K, N]`, and of its input.

    `pre_scale` float32 [K] multiplies the input. `input_scale` is the step of the input's codes,
    which have the weight's type.
    """

    weight: Callable[[ir.TensorProtocol], QuantizedWeight]
    dtype: ir.DataType
    pre_scale: Floats | None = None
    input_scale: float | None = None


def layer_linears(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return (N, K) of every linear of the layers by weight name."""
    return {
        name: (shape[0], shape[1])
        for name, shape in expected_tensors(model)
        if name.endswith("_proj.weight")
    }


def _layout(name: str, shape: tuple[int, int], precision: Precision) -> Layout:
    if precision.weights == "int4_awq":
        return Layout(*shape, ir.DataType.INT4, precision.block_size)
    return Layout(
        *shape, CALIBRATED_TYPES[precision.weights], 0, per_tensor=precision.weights == "fp8"
    )


def _calibrated(
    tensor: ir.TensorProtocol, *, layout: Layout, scales: LinearScales
) -> QuantizedWeight:
    return CalibratedWeight(tensor, layout, scales.amax, scales.pre_scale)


def _from_scales(
    name: str, shape: tuple[int, int], precision: Precision, scales: LinearScales
) -> Recipe:
    layout = _layout(name, shape, precision)
    wanted = (layout.outputs, layout.scales_a_row) if layout.block_size else (layout.outputs,)
    if scales.amax.shape != (() if layout.per_tensor else wanted):
        raise BuildError(
            f"the scales of {name} have shape {list(scales.amax.shape)}, precision "
            f"{precision.weights} with block_size {precision.block_size} needs "
            f"{[] if layout.per_tensor else list(wanted)}; calibrate again"
        )
    input_scale = None
    if precision.weights in QUANTIZED_INPUTS:
        if scales.input_amax is None:
            raise BuildError(f"the scales of {name} lack the input's amax; calibrate again")
        input_scale = float(scale_of(np.float32(scales.input_amax), layout.dtype))
    make = partial(_calibrated, layout=layout, scales=scales)
    return Recipe(make, layout.dtype, scales.pre_scale, input_scale)


def _read_stored(stored: Stored, name: str) -> StoredLinear:
    linear = stored(name)
    assert linear is not None, f"{name} was stored when the graph was planned"
    return linear


def _from_checkpoint(
    name: str, shape: tuple[int, int], precision: Precision, stored: Stored, linear: StoredLinear
) -> Recipe:
    layout = _layout(name, shape, precision)
    if linear.block_size != layout.block_size:
        raise BuildError(
            f"{name} is stored in blocks of {linear.block_size}, precision.block_size is "
            f"{layout.block_size}; set it to {linear.block_size}"
        )
    if precision.weights in QUANTIZED_INPUTS and linear.input_scale is None:
        raise BuildError(
            f"{name} is stored as {linear.precision} without an input scale; precision "
            f"{precision.weights} needs one"
        )
    weight = StoredWeight(partial(_read_stored, stored, name), layout)
    return Recipe(lambda _tensor: weight, layout.dtype, linear.pre_scale, linear.input_scale)


def _shared(recipes: dict[str, Recipe], model: ModelConfig) -> dict[str, Recipe]:
    """Give projections of one input one input scale: the largest, which clips none of them.

    Raises BuildError where their pre-scales differ.
    """
    for layer in range(model.num_layers):
        for group in GROUPS:
            names = [f"model.layers.{layer}.{part}.weight" for part in group]
            first = recipes[names[0]].pre_scale
            for name in names[1:]:
                other = recipes[name].pre_scale
                if (first is None) != (other is None) or (
                    first is not None and other is not None and not np.array_equal(first, other)
                ):
                    raise BuildError(
                        f"{names[0]} and {name} read one input but have different pre-scales; "
                        "calibrate again"
                    )
            steps = [step for name in names if (step := recipes[name].input_scale) is not None]
            for name in names:
                if steps:
                    recipes[name] = replace(recipes[name], input_scale=max(steps))
    return recipes


def linear_recipes(
    model: ModelConfig, precision: Precision, scales: Scales | None, stored: Stored
) -> dict[str, Recipe]:
    """Return the recipe of every linear of the layers; none where they stay floats.

    A linear that the checkpoint stores in the wanted precision keeps its codes; any other is
    quantised from its float value, with `scales` where the precision is a calibrated one.
    """
    kind = precision.weights
    shapes = layer_linears(model)
    if kind == "int8_rows":
        return {name: _column_recipe(shape) for name, shape in shapes.items()}
    if kind in ROUNDED_TYPES:
        return {name: rounded_recipe(shape, kind, precision) for name, shape in shapes.items()}
    if kind not in CALIBRATED_WEIGHTS:
        return {}
    recipes = {}
    for name, shape in shapes.items():
        linear = stored(name)
        if linear is not None and linear.precision == kind:
            recipes[name] = _from_checkpoint(name, shape, precision, stored, linear)
            continue
        if scales is None or scales.weights != kind or name not in scales.linears:
            raise BuildError(
                f"precision.weights is {kind!r} but there are no such scales of {name}; "
                "calibrate the model first, or use int4_rtn or int8, which need none"
            )
        if kind == "int4_awq" and scales.block_size != precision.block_size:
            raise BuildError(
                f"the scales are for blocks of {scales.block_size}, precision.block_size is "
                f"{precision.block_size}; set it to {scales.block_size} or calibrate again"
            )
        recipes[name] = _from_scales(name, shape, precision, scales.linears[name])
    return _shared(recipes, model)


def rounded_recipe(shape: tuple[int, int], kind: str, precision: Precision) -> Recipe:
    """Return how a linear of (N, K) is rounded to nearest in blocks."""
    layout = Layout(*shape, ROUNDED_TYPES[kind], precision.block_size)
    return Recipe(partial(RoundedWeight, layout=layout, transposed=True), layout.dtype)


def _column_recipe(shape: tuple[int, int]) -> Recipe:
    """Return how a linear of (N, K) is rounded to nearest with a scale an output."""
    layout = Layout(*shape, ir.DataType.INT8, 0)
    return Recipe(partial(RoundedWeight, layout=layout, transposed=True), layout.dtype)
