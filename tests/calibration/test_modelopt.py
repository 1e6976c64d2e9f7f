"""One linear: the adapter gives what modelopt gives, by a shorter way where it takes one."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgellama.calibration.modelopt import calibrate_linear, condensed, quantization_config
from edgellama.calibration.recipe import Recipe


def tensors(seed: int, *shapes: tuple[int, int]) -> list[torch.Tensor]:
    """Normal numbers with a few channels that are many times larger, as a Llama's inputs have."""
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randn(shape, generator=generator) for shape in shapes]
    for tensor in found[1:]:
        tensor[:, ::17] *= 20
    return found


def modelopt_alone(weight: torch.Tensor, batches: list[torch.Tensor], recipe: Recipe) -> Any:
    import modelopt.torch.quantization as mtq

    model = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    model[0].weight = nn.Parameter(weight.clone())

    def forward_loop(module: nn.Module) -> None:
        for batch in batches:
            module(batch[None])

    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        mtq.quantize(model, quantization_config(recipe), forward_loop)
    return model[0]


@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("awq", ["awq_lite", "awq_clip", "awq_full"])
def test_awq_over_several_batches(awq: str, block: int) -> None:
    weight, *batches = tensors(block, (40, 256), (130, 256), (130, 256), (50, 256))
    recipe = Recipe("int4_awq", block_size=block, awq=awq)
    linear = modelopt_alone(weight, batches, recipe)
    found = calibrate_linear(weight.clone(), batches, recipe)
    theirs = linear.weight_quantizer.amax.reshape(found.amax.shape)
    torch.testing.assert_close(torch.from_numpy(found.amax), theirs, rtol=1e-4, atol=0)
    if found.pre_scale is not None:
        ours = torch.from_numpy(found.pre_scale)
        torch.testing.assert_close(ours, linear.input_quantizer.pre_quant_scale, rtol=1e-5, atol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([32, 64]), st.lists(st.integers(1, 150), min_size=1))
def test_condensed_inputs_lose_what_all_inputs_lose(
    seed: int, block: int, lengths: list[int]
) -> None:
    error, *batches = tensors(seed, (5, 128), *((length, 128) for length in lengths[:4]))
    few = condensed(batches, block)
    assert few.shape == (block, 128)

    def loss(inputs: torch.Tensor) -> torch.Tensor:
        parts = inputs.double().reshape(len(inputs), 1, -1, block)
        return (parts * error.double().reshape(1, 5, -1, block)).sum(3).square().sum(0)

    whole = torch.stack([loss(batch) / len(batch) for batch in batches]).sum(0)
    torch.testing.assert_close(loss(few), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weights", ["fp8", "int8_sq"])
def test_ranges_are_the_largest_magnitudes(weights: str) -> None:
    weight, *batches = tensors(1, (40, 256), (30, 256), (20, 256))
    found = calibrate_linear(weight.clone(), batches, Recipe(weights))
    inputs = torch.cat(batches)
    if weights == "fp8":
        assert found.pre_scale is None and found.amax.shape == ()
        assert float(found.amax) == float(weight.abs().max())
        assert found.input_amax == float(inputs.abs().max())
        return
    assert found.pre_scale is not None
    scale = torch.from_numpy(found.pre_scale)
    smoothed = (weight / scale).abs().amax(dim=1)
    torch.testing.assert_close(torch.from_numpy(found.amax), smoothed)
    assert found.input_amax == pytest.approx(float((inputs * scale).abs().max()), rel=1e-5)
