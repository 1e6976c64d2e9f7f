"""Target `trt-plugin`: one node from the packed projection to the output projection's input."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from edgellama.optimize.passes.fused_gqa import fuse_attention
from edgellama.optimize.passes.int4_plugin import fuse_int4_linears
from edgellama.optimize.passes.pack_linears import GATE_UP, QKV, pack_linears
from edgellama.optimize.passes.rms_norm import fuse_rms_norm
from edgellama.optimize.passes.rotary import fuse_rotary
from edgellama.optimize.pipeline import PassStep
from edgellama.optimize.targets.trt_interface import head_steps
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Profile

OPSET = 23  # the first with RMSNormalization


# qkv and gate_up (packed), o, down
_LINEARS_A_LAYER = 4


def _linear_steps(model: ModelConfig, profile: Profile) -> tuple[PassStep, ...]:
    """Return the step that gives INT4 linears to the project's kernel, where the profile says so.

    A head of INT4 blocks goes with them, unless it is the embedding too, which is stored [N, K].
    """
    if profile.kernels is None or not profile.kernels.int4_linear:
        return ()
    head = not model.tie_word_embeddings and profile.precision.embedding == "int4_rtn"
    count = _LINEARS_A_LAYER * model.num_layers + (1 if head else 0)
    return (PassStep("int4_linears", fuse_int4_linears, count),)


def trt_plugin_steps(model: ModelConfig, profile: Profile, capacity: int) -> tuple[PassStep, ...]:
    """Return the passes that make an engine graph of the quantised portable one, with their counts.

    The profile's GPU decides whether pasts are cut in pieces.
    """
    layers = model.num_layers
    programs = profile.attention_programs
    tables = ir.DataType.FLOAT  # the kernel rotates in float32
    return (
        PassStep("rms_norm", fuse_rms_norm, 2 * layers + 1),
        PassStep("rotary", partial(fuse_rotary, rows=capacity, tables=tables), 2 * layers),
        PassStep("pack_qkv", partial(pack_linears, group=QKV), layers),
        PassStep("fused_gqa", partial(fuse_attention, programs=programs), layers),
        PassStep("pack_gate_up", partial(pack_linears, group=GATE_UP), layers),
        *head_steps(profile.precision),
        *_linear_steps(model, profile),  # last: the others look for a head that is a product
    )
