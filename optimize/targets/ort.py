"""Target `ort`: ONNX Runtime's fused operators over a shared key-value pool."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from edgellama.optimize.passes.gqa import fuse_gqa
from edgellama.optimize.passes.half_storage import store_half
from edgellama.optimize.passes.matmul_nbits import fuse_matmul_nbits
from edgellama.optimize.passes.pack_qkv import pack_qkv
from edgellama.optimize.passes.pad_heads import MULTIPLE, pad_heads
from edgellama.optimize.passes.quantize_linears import quantize_linears
from edgellama.optimize.passes.quantize_tables import TABLE, quantize_tables
from edgellama.optimize.passes.rms_norm import fuse_rms_norm
from edgellama.optimize.passes.rotary import fuse_rotary
from edgellama.optimize.passes.select_logits import select_logits
from edgellama.optimize.passes.skip_rms_norm import fuse_skip_rms_norm
from edgellama.optimize.pipeline import PassStep
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Precision

HEAD = "lm_head.weight"
QUANTIZED_BITS = {"int8": 8, "int4_rtn": 4}
# qkv (packed from three), o, gate, up, down
LINEARS_A_LAYER = 5


def _is_table(name: str) -> bool:
    return name in (HEAD, TABLE)


def _is_layer(name: str) -> bool:
    return name.startswith("model.layers.")


def _weight_steps(model: ModelConfig, precision: Precision) -> list[PassStep]:
    """Return the steps that bring the layers' linears to their precision."""
    linears = LINEARS_A_LAYER * model.num_layers
    if precision.weights in QUANTIZED_BITS:
        bits = QUANTIZED_BITS[precision.weights]
        run = partial(
            quantize_linears,
            bits=bits,
            block_size=precision.block_size,
            wanted=_is_layer,
        )
        return [PassStep("quantize_linears", run, linears)]
    if precision.weights == "fp16":
        half = partial(store_half, wanted=_is_layer)
        return [PassStep("half_storage", half, linears)]
    return []


def _table_steps(model: ModelConfig, precision: Precision) -> list[PassStep]:
    """Return the steps that bring embedding and head to their precision."""
    tied = model.tie_word_embeddings
    if precision.embedding in QUANTIZED_BITS:
        bits, block = QUANTIZED_BITS[precision.embedding], precision.block_size
        tables = partial(quantize_tables, bits=bits, block_size=block)
        steps = [PassStep("quantize_tables", tables, 2 if tied else 1)]
        if not tied:
            head = partial(
                quantize_linears, bits=bits, block_size=block, wanted=lambda name: name == HEAD
            )
            steps.append(PassStep("quantize_head", head, 1))
        return steps
    if precision.embedding == "fp16":
        return [PassStep("half_tables", partial(store_half, wanted=_is_table), 1 if tied else 2)]
    return []


def ort_steps(model: ModelConfig, precision: Precision, capacity: int) -> tuple[PassStep, ...]:
    """Return the passes that make an engine graph of the portable one, with their counts.

    `capacity` is the number of positions a slot holds, and so the rows of the rotary tables.
    """
    layers = model.num_layers
    steps = [
        PassStep("rms_norm", fuse_rms_norm, 2 * layers + 1),
        PassStep("rotary", partial(fuse_rotary, rows=capacity), 2 * layers),
        PassStep("pack_qkv", pack_qkv, layers),
        PassStep("gqa", fuse_gqa, layers),
        PassStep("pad_heads", pad_heads, layers if model.head_dim % MULTIPLE else 0),
        PassStep("skip_rms_norm", fuse_skip_rms_norm, 2 * layers),
        PassStep("select_logits", select_logits, 1),
        *_weight_steps(model, precision),
        *_table_steps(model, precision),
    ]
    quantized = LINEARS_A_LAYER * layers if precision.weights in QUANTIZED_BITS else 0
    if precision.embedding in QUANTIZED_BITS and not model.tie_word_embeddings:
        quantized += 1
    if quantized:
        steps.append(PassStep("matmul_nbits", fuse_matmul_nbits, quantized))
    return tuple(steps)


def finish_interface(model: ir.Model) -> None:
    """Name the cache axes as the engine binds them: `capacity` for past and present alike."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if (value.name or "").startswith(("past_key_values.", "present.")):
            assert value.shape is not None
            value.shape = ir.Shape(["batch", value.shape[1], "capacity", value.shape[3]])
