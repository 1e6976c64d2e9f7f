"""What the graphs of TensorRT's targets take and give, and the passes that they share."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from edgellama.optimize.passes.cache_inputs import WRITE_INDICES
from edgellama.optimize.passes.float_logits import float_logits
from edgellama.optimize.passes.pack_linears import GATE_UP, QKV, pack_linears
from edgellama.optimize.passes.select_logits import LOGITS_INDICES, select_logits
from edgellama.optimize.pipeline import PassStep
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Precision

_FIRST = ("input_ids", "position_ids", WRITE_INDICES, LOGITS_INDICES)


def pack_steps(model: ModelConfig) -> tuple[PassStep, ...]:
    """Return the passes that pack linears of one input.

    TensorRT does so itself, but for each optimisation profile anew: what one of them packs and
    another does not is in the plan twice, 43 MB of 71 for two layers of a 1B.
    """
    return (
        PassStep("pack_qkv", partial(pack_linears, group=QKV), model.num_layers),
        PassStep("pack_gate_up", partial(pack_linears, group=GATE_UP), model.num_layers),
    )


def head_steps(precision: Precision) -> tuple[PassStep, ...]:
    """Return the passes behind the last layer: the wanted rows only, in float32."""
    narrow = precision.compute != "fp32"
    return (
        PassStep("select_logits", select_logits, 1),
        PassStep("float_logits", float_logits, 1 if narrow else 0),
    )


def finish_interface(model: ir.Model, capacity: int, opset: int) -> None:
    """Order the inputs, give every cache its fixed capacity, and set the operator set."""
    inputs = {value.name: value for value in model.graph.inputs}
    caches = [value for value in model.graph.inputs if value.name not in _FIRST]
    model.graph.inputs[:] = [*(inputs[name] for name in _FIRST), *caches]
    for value in (*caches, *model.graph.outputs):
        if value.name != "logits":
            assert value.shape is not None
            value.shape = ir.Shape(["batch", value.shape[1], capacity, value.shape[3]])
    model.opset_imports[""] = opset
