"""Layer by layer gives what modelopt gives for the whole model at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from edgellama.calibration.cache_range import HEADROOM
from edgellama.calibration.calibrate import calibrate
from edgellama.calibration.layers import GROUPS, weight_name
from edgellama.calibration.modelopt import quantization_config
from edgellama.calibration.recipe import Recipe
from edgellama.calibration.samples import Samples
from edgellama.calibration.scales import LinearScales
from edgellama.export.checkpoint import Checkpoint
from edgellama.optimize.portable import export_model
from edgellama.optimize.portable_session import PortableSession
from edgellama.optimize.quantization import Given
from edgellama.profiles.profile import load_profile

Floats = npt.NDArray[np.float32]
RELATIVE = 1e-3
QUICK = {
    "awq_lite": Recipe("int4_awq", block_size=128, awq="awq_lite"),
    "fp8": Recipe("fp8", kv="fp8", granularity="tensor", capacity=512),
    "int8_sq": Recipe("int8_sq"),
}
SLOW = {
    "awq_lite-32": Recipe("int4_awq", block_size=32, awq="awq_lite"),
    "awq_lite-64": Recipe("int4_awq", block_size=64, awq="awq_lite"),
    "awq_clip": Recipe("int4_awq", block_size=64, awq="awq_clip"),
    "awq_full": Recipe("int4_awq", block_size=128, awq="awq_full"),
}


class Part(nn.Module):
    """Some outputs of a fused linear; the linear is registered once, elsewhere."""

    def __init__(self, fused: list[nn.Module], start: int, stop: int) -> None:
        super().__init__()
        self._fused, self._range = fused, slice(start, stop)  # in a list: not a submodule

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self._fused[0](inputs)[..., self._range]
        return result


def fuse(layer: nn.Module) -> None:
    """Put one linear in the place of each group of projections that read the same input."""
    for group in GROUPS:
        if len(group) == 1:
            continue
        parts: list[Any] = [layer.get_submodule(name) for name in group]
        weight = torch.cat([part.weight.detach() for part in parts])
        fused = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        fused.weight = nn.Parameter(weight)
        parent = layer.get_submodule(group[0].split(".")[0])
        parent.add_module("fused", fused)
        start = 0
        for name, part in zip(group, parts, strict=True):
            stop = start + part.weight.shape[0]
            setattr(parent, name.split(".")[1], Part([fused], start, stop))
            start = stop


def quantized_model(folder: Path, recipe: Recipe, rows: Sequence[Sequence[int]]) -> Any:
    """Return the fused model quantised by modelopt on one batch of equally long sequences."""
    import modelopt.torch.quantization as mtq

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for layer in model.model.layers:
        fuse(layer)
    config = quantization_config(recipe)
    if recipe.kv is not None:
        config["quant_cfg"] += mtq.FP8_KV_CFG["quant_cfg"]
    with torch.no_grad():
        return mtq.quantize(model, config, lambda m: m(torch.tensor(rows)))


def linear_of(model: Any, layer: int, group: Sequence[str]) -> Any:
    """Return the quantised linear that computes a group."""
    block = model.model.layers[layer]
    if len(group) == 1:
        return block.get_submodule(group[0])
    return block.get_submodule(group[0].split(".")[0]).fused


def largest_difference(ours: Floats, theirs: Any) -> float:
    """The largest relative difference of two arrays of as many positive numbers."""
    other = theirs.detach().float().numpy().reshape(ours.shape)
    return float((np.abs(ours - other) / np.abs(other)).max())


def code_differences(weight: Floats, scales: LinearScales, linear: Any, block: int) -> Floats:
    """Distances to the nearest tie of the int4 codes that differ from modelopt's."""
    theirs = linear.weight_quantizer(linear.weight).detach().numpy()
    steps = linear.weight_quantizer.amax.numpy().reshape(len(weight), -1) / 7
    codes = np.rint(theirs / np.repeat(steps, block, axis=1))
    smoothed = weight if scales.pre_scale is None else weight / scales.pre_scale
    exact = smoothed / np.repeat(scales.amax / 7, block, axis=1)
    ours = np.clip(np.rint(exact), -8, 7)
    distance: Floats = np.abs(np.abs(exact - np.trunc(exact)) - 0.5)[ours != codes]
    return distance


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_scales_are_those_of_the_whole_model(
    tiny: Checkpoint, samples: Samples, tmp_path: Path, name: str
) -> None:
    recipe = (QUICK | SLOW)[name]
    model = quantized_model(tiny.folder, recipe, samples.sequences)
    found = calibrate(tiny, recipe, samples, tmp_path / "scales")
    for layer in range(tiny.model.num_layers):
        for group in GROUPS:
            linear = linear_of(model, layer, group)
            parts = [found.linears[weight_name(layer, projection)] for projection in group]
            amax = np.concatenate([p.amax for p in parts]) if parts[0].amax.ndim else parts[0].amax
            assert largest_difference(amax, linear.weight_quantizer.amax) <= RELATIVE
            for part in parts:
                pre_scale = linear.input_quantizer.pre_quant_scale
                assert (part.pre_scale is None) == (pre_scale is None)
                if part.pre_scale is not None:
                    assert largest_difference(part.pre_scale, pre_scale) <= RELATIVE
                assert (part.input_amax is None) == (recipe.weights == "int4_awq")
                if part.input_amax is not None:
                    theirs = float(linear.input_quantizer.amax)
                    assert part.input_amax == pytest.approx(theirs, rel=RELATIVE)
            if recipe.block_size is not None:
                fused = LinearScales(amax, parts[0].pre_scale)
                names = [weight_name(layer, projection) for projection in group]
                weight = np.concatenate([tiny.read(name).float().numpy() for name in names])
                ties = code_differences(weight, fused, linear, recipe.block_size)
                assert len(ties) < 1e-3 * weight.size and (ties < 8 * RELATIVE).all()
        if recipe.kv is not None:
            attention = model.model.layers[layer].self_attn
            value = float(attention.v_bmm_quantizer.amax) * HEADROOM[recipe.kv]
            assert found.cache[f"{layer}.value"] == pytest.approx(value, rel=RELATIVE)
            # A key is also held to what it reaches at other positions of a slot.
            key = float(attention.k_bmm_quantizer.amax)
            assert key <= float(found.cache[f"{layer}.key"][0])


@pytest.mark.parametrize(
    ("recipe", "largest", "middle"),
    [
        (Recipe("int4_awq", block_size=32, awq="awq_lite"), 1e-4, 1e-5),
        # An input between two fp8 codes goes to either, and the next layers carry that on.
        (Recipe("fp8"), 5e-2, 2e-3),
    ],
    ids=["int4_awq", "fp8"],
)
def test_the_exported_model_computes_what_modelopt_simulates(
    tiny: Checkpoint,
    samples: Samples,
    tmp_path: Path,
    recipe: Recipe,
    largest: float,
    middle: float,
) -> None:
    assert recipe.weights is not None
    model = quantized_model(tiny.folder, recipe, samples.sequences)
    calibrate(tiny, recipe, samples, tmp_path / "scales")
    base = load_profile("cpu-tiny")
    precision = replace(base.precision, weights=recipe.weights, embedding="fp32")
    export_model(
        tiny.folder,
        tmp_path / "model",
        replace(base, precision=precision),
        given=Given(tmp_path / "scales"),
    )
    session = PortableSession(tmp_path / "model" / "model.onnx", tiny.model)
    differences = []
    for sequence in samples.sequences[:2]:
        ours = session.logits(sequence)
        with torch.no_grad():
            theirs = model(torch.tensor([sequence])).logits[0].numpy()
        differences.append(np.abs(ours - theirs) / np.abs(theirs).max())
    difference = np.concatenate(differences)
    print(f"{recipe.weights}: max {difference.max():.2e}, median {np.median(difference):.2e}")
    assert difference.max() <= largest
    assert np.median(difference) <= middle
