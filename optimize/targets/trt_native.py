"""Target `trt-native`: TensorRT's own layers for language models, from version 10.16 on."""

from __future__ import annotations

from functools import partial

from edgellama.optimize.passes.rms_norm import fuse_rms_norm
from edgellama.optimize.passes.rotary import fuse_rotary
from edgellama.optimize.passes.scatter_cache import scatter_cache
from edgellama.optimize.pipeline import PassStep
from edgellama.optimize.targets.trt_interface import head_steps, pack_steps
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Precision

OPSET = 24  # the first with TensorScatter


def trt_native_steps(
    model: ModelConfig, precision: Precision, capacity: int
) -> tuple[PassStep, ...]:
    """Return the passes that make an engine graph of the quantised portable one, with their counts.

    Linears stay `MatMul` behind `DequantizeLinear`: TensorRT's parser reads both as they are.
    """
    layers = model.num_layers
    return (
        PassStep("rms_norm", fuse_rms_norm, 2 * layers + 1),
        PassStep("rotary", partial(fuse_rotary, rows=capacity), 2 * layers),
        PassStep("scatter_cache", partial(scatter_cache, capacity=capacity), layers),
        *pack_steps(model),
        *head_steps(precision),
    )
