"""Where the pre-scales of the linears' inputs go, so that they cost nothing wherever they can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgellama.optimize.float_rows import Floats
from edgellama.optimize.recipes import Recipe
from edgellama.profiles.model import ModelConfig


@dataclass(frozen=True)
class PreScales:
    """Where the inputs' pre-scales go; each is exact.

    `norms`: into a norm's weight [K]. `outputs`: into the scales of the previous linear's outputs
    [N]. `inputs`: nowhere, the input is multiplied. Keys are weight names.
    """

    norms: Mapping[str, Floats]
    outputs: Mapping[str, Floats]
    inputs: Mapping[str, Floats]


def _of_value_heads(pre_scale: Floats, model: ModelConfig) -> Floats | None:
    """Return the pre-scale [kv_heads * head_dim] that query heads of a group share, if they do."""
    group = model.num_heads // model.num_kv_heads
    heads = pre_scale.reshape(model.num_kv_heads, group, model.head_dim)
    return heads[:, 0].reshape(-1) if (heads == heads[:, :1]).all() else None


def place_pre_scales(
    model: ModelConfig, recipes: Mapping[str, Recipe], *, cache_is_rounded: bool
) -> PreScales:
    """Decide where each pre-scale goes.

    The output projection's goes into the values only where their cache is a float one: scales of a
    cache are calibrated on the values as they are.
    """
    norms: dict[str, Floats] = {}
    outputs: dict[str, Floats] = {}
    inputs: dict[str, Floats] = {}
    for layer in range(model.num_layers):
        prefix = f"model.layers.{layer}"

        def scale(part: str, prefix: str = prefix) -> Floats | None:
            recipe = recipes.get(f"{prefix}.{part}.weight")
            return recipe.pre_scale if recipe is not None else None

        for part, norm in (
            ("self_attn.q_proj", "input_layernorm"),
            ("mlp.gate_proj", "post_attention_layernorm"),
        ):
            if (found := scale(part)) is not None:
                norms[f"{prefix}.{norm}.weight"] = found
        if (found := scale("mlp.down_proj")) is not None:
            outputs[f"{prefix}.mlp.up_proj.weight"] = found
        if (found := scale("self_attn.o_proj")) is not None:
            values = None if cache_is_rounded else _of_value_heads(found, model)
            if values is None:
                inputs[f"{prefix}.self_attn.o_proj.weight"] = found
            else:
                outputs[f"{prefix}.self_attn.v_proj.weight"] = values
    return PreScales(norms, outputs, inputs)
