"""Target `ort`: ONNX Runtime's fused operators over a shared key-value pool."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from edgellama.optimize.passes.fp8_linears import widen_fp8
from edgellama.optimize.passes.gather_quantized import fuse_gather_quantized
from edgellama.optimize.passes.gqa import fuse_gqa
from edgellama.optimize.passes.integer_linears import fuse_integer_linears
from edgellama.optimize.passes.integer_rows import fuse_integer_rows
from edgellama.optimize.passes.matmul_nbits import fuse_matmul_nbits
from edgellama.optimize.passes.mixed_attention import mixed_attention
from edgellama.optimize.passes.pack_linears import QKV, pack_linears
from edgellama.optimize.passes.pad_heads import MULTIPLE, pad_heads
from edgellama.optimize.passes.rms_norm import fuse_rms_norm
from edgellama.optimize.passes.rotary import fuse_rotary
from edgellama.optimize.passes.select_logits import select_logits
from edgellama.optimize.passes.skip_rms_norm import fuse_skip_rms_norm
from edgellama.optimize.pipeline import PassStep
from edgellama.optimize.recipes import ROUNDED_TYPES
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Precision

# qkv (packed from three), o, gate, up, down
LINEARS_A_LAYER = 5
# Weights of block scales, which MatMulNBits computes with.
_BLOCK_PRECISIONS = (*ROUNDED_TYPES, "int4_awq")


def _weight_steps(model: ModelConfig, precision: Precision) -> list[PassStep]:
    """Return the steps that turn quantised weights into the runtime's own operators."""
    steps = []
    linears = LINEARS_A_LAYER * model.num_layers
    tied = model.tie_word_embeddings
    if precision.embedding in ROUNDED_TYPES:
        steps.append(PassStep("gather_quantized", fuse_gather_quantized, 2 if tied else 1))
    blocks = linears if precision.weights in _BLOCK_PRECISIONS else 0
    if precision.embedding in ROUNDED_TYPES and not tied:
        blocks += 1  # the head
    if blocks:
        steps.append(PassStep("matmul_nbits", fuse_matmul_nbits, blocks))
    if precision.weights == "fp8":
        steps.append(PassStep("widen_fp8", widen_fp8, linears))
    if precision.weights == "int8_sq":
        steps.append(PassStep("integer_linears", fuse_integer_linears, linears))
    if precision.weights == "int8_rows":
        steps.append(PassStep("integer_rows", fuse_integer_rows, linears))
    return steps


def ort_steps(model: ModelConfig, precision: Precision, capacity: int) -> tuple[PassStep, ...]:
    """Return the passes that make an engine graph of the quantised portable one, with their counts.

    `precision` is what the portable graph was quantised to. `capacity` is the number of positions a
    slot holds, and so the rows of the rotary tables.
    """
    layers = model.num_layers
    return (
        PassStep("rms_norm", fuse_rms_norm, 2 * layers + 1),
        PassStep("rotary", partial(fuse_rotary, rows=capacity), 2 * layers),
        PassStep("pack_qkv", partial(pack_linears, group=QKV), layers),
        PassStep("gqa", fuse_gqa, layers),
        PassStep("pad_heads", pad_heads, layers if model.head_dim % MULTIPLE else 0),
        *([PassStep("mixed_attention", mixed_attention, layers)] if precision.is_mixed else []),
        PassStep("skip_rms_norm", fuse_skip_rms_norm, 2 * layers),
        PassStep("select_logits", select_logits, 1),
        *_weight_steps(model, precision),
    )


def finish_interface(model: ir.Model) -> None:
    """Name the cache axes as the engine binds them: `capacity` for past and present alike."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if (value.name or "").startswith(("past_key_values.", "present.")):
            assert value.shape is not None
            value.shape = ir.Shape(["batch", value.shape[1], "capacity", value.shape[3]])
