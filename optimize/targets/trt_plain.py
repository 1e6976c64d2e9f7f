"""Target `trt-plain`: operators that TensorRT 10.3 has, which is all that JetPack 6 ships."""

from __future__ import annotations

from functools import partial

from edgellama.optimize.passes.gather_angles import gather_angles
from edgellama.optimize.passes.plain_attention import plain_attention
from edgellama.optimize.pipeline import PassStep
from edgellama.optimize.targets.trt_interface import head_steps, pack_steps
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Precision

OPSET = 21  # the first with blocks in DequantizeLinear, and the last with nothing newer


def trt_plain_steps(
    model: ModelConfig, precision: Precision, capacity: int
) -> tuple[PassStep, ...]:
    """Return the passes that make an engine graph of the quantised portable one, with their counts.

    Norms and rotations stay as they are spelt out.
    """
    return (
        PassStep("gather_angles", partial(gather_angles, rows=capacity), 2),
        PassStep("plain_attention", partial(plain_attention, capacity=capacity), model.num_layers),
        *pack_steps(model),
        *head_steps(precision),
    )
