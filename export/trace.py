"""Trace transformers' own Llama on the meta device into a portable ONNX graph."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import onnxscript.optimizer
import torch
from optimum.utils.input_generators import (
    DummyTextInputGenerator,
    MistralDummyPastKeyValuesGenerator,
)
from optimum.utils.normalized_config import NormalizedConfigManager
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from edgellama.export.stamp import TEMPLATE, stamp_layers
from edgellama.export.trace_cache import kept_trace
from edgellama.export.traced_llama import ATTENTION, KeyValue, TracedLlama, register_hooks

OPSET = 23
TRACED_LAYERS = TEMPLATE + 1
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def _example_inputs(
    config: LlamaConfig, dtype: str
) -> tuple[torch.Tensor, torch.Tensor, list[KeyValue]]:
    """Make example inputs with optimum's generators, moved to meta: only shapes and dtypes count.

    Batch 2, sequence 4 and past 3 differ pairwise and from 1, so that no axis is specialised.
    """
    normalized = NormalizedConfigManager.get_normalized_config_class("llama")(config)
    text = DummyTextInputGenerator("text-generation", normalized, batch_size=2, sequence_length=4)
    past = MistralDummyPastKeyValuesGenerator(
        "text-generation", normalized, batch_size=2, sequence_length=3
    )
    pairs = past.generate("past_key_values", framework="pt", float_dtype="fp32")
    kind = DTYPES[dtype]
    return (
        text.generate("input_ids").to("meta"),
        text.generate("position_ids").to("meta"),
        [(key.to("meta", kind), value.to("meta", kind)) for key, value in pairs],
    )


def _name_interface(graph: ir.Graph, config: LlamaConfig) -> None:
    """Give inputs, outputs and their axes the names that `docs/artefacts.md` promises."""
    kv_heads, head_dim = config.num_key_value_heads, config.head_dim
    names = ["input_ids", "position_ids"]
    outputs = ["logits"]
    for layer in range(config.num_hidden_layers):
        names += [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
        outputs += [f"present.{layer}.key", f"present.{layer}.value"]
    if len(names) != len(graph.inputs) or len(outputs) != len(graph.outputs):
        raise RuntimeError(
            f"the trace has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; "
            f"{len(names)} and {len(outputs)} were expected"
        )
    for value, name in zip(graph.inputs, names, strict=True):
        value.name = name
        past = ir.Shape(["batch", kv_heads, "past", head_dim])
        value.shape = past if name.startswith("past") else ir.Shape(["batch", "sequence"])
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name
        present = ir.Shape(["batch", kv_heads, "past + sequence", head_dim])
        logits = ir.Shape(["batch", "sequence", config.vocab_size])
        value.shape = present if name.startswith("present") else logits


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter and its optimiser from printing progress and internal warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def trace_llama(config: LlamaConfig, dtype: str) -> ir.Model:
    """Return the graph of `config`, which may be of any size: no weight is allocated.

    Two layers are traced and the second is repeated: tracing takes time and memory by the layer,
    and the result is the same (`tests/export/test_stamp.py` compares the two). The trace is kept
    for later builds; raises OSError where the user's cache cannot be written.

    The initializers carry names and shapes but no data, named as in the checkpoint. Inputs
    `input_ids`, `position_ids` int64 [batch, sequence] and `past_key_values.N.{key,value}`
    [batch, kv_heads, past, head_dim]; outputs `logits` [batch, sequence, vocab] and
    `present.N.{key,value}`.
    """
    short = copy.deepcopy(config)
    short.num_hidden_layers = min(config.num_hidden_layers, TRACED_LAYERS)
    model = kept_trace(short, dtype, trace_every_layer)
    if config.num_hidden_layers > TRACED_LAYERS:
        stamp_layers(model, config.num_hidden_layers)
    return model


def trace_every_layer(config: LlamaConfig, dtype: str) -> ir.Model:
    """Return the graph as `trace_llama` does, tracing each layer."""
    register_hooks()
    config._attn_implementation = ATTENTION
    with torch.device("meta"):
        llama = LlamaForCausalLM(config).eval().to(DTYPES[dtype])  # type: ignore[no-untyped-call]
    batch, sequence, past = (torch.export.Dim(n) for n in ("batch", "sequence", "past"))
    pair = ({0: batch, 2: past}, {0: batch, 2: past})
    dynamic = {
        "input_ids": {0: batch, 1: sequence},
        "position_ids": {0: batch, 1: sequence},
        "past": [pair for _ in range(config.num_hidden_layers)],
    }
    with _quiet(), torch.no_grad():
        program = torch.export.export(
            TracedLlama(llama), _example_inputs(config, dtype), dynamic_shapes=dynamic, strict=False
        )
        traced = torch.onnx.export(program, opset_version=OPSET, dynamo=True, optimize=False)
    if traced is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = traced.model
    _name_initializers(
        model.graph, LlamaRotaryEmbedding(config).inv_freq, config.tie_word_embeddings
    )
    _name_interface(model.graph, config)
    with _quiet():
        # Folds what the exporter spells out (casts of constants, identities, shapes); the weights
        # have no data yet, so they stay untouched.
        onnxscript.optimizer.optimize(model)
    _read_sizes_alike(model.graph)
    model.graph.name = "llama"
    _strip_provenance(model)
    return model


def _read_sizes_alike(graph: ir.Graph) -> None:
    """Read batch and past length from the first inputs that have them.

    torch picks any of the inputs that share a size, another one for another number of layers.
    """
    inputs = {value.name: value for value in graph.inputs}
    first = {0: inputs["input_ids"], 1: inputs["input_ids"], 2: inputs["past_key_values.0.key"]}
    for node in graph:
        if node.op_type == "Shape" and node.inputs[0] in graph.inputs:
            node.replace_input_with(0, first[node.attributes["start"].as_int()])


def _strip_provenance(model: ir.Model) -> None:
    """Drop torch's notes on every node and value: stack traces with the paths of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


def _name_initializers(graph: ir.Graph, inv_freq: torch.Tensor, tied: bool) -> None:
    """Name the weights as the checkpoint does and drop their meta data; fill in `inv_freq`.

    The rotary frequencies float32 [head_dim / 2] are transformers' own, scaling applied: they are
    no weight of the checkpoint, and every later table of angles derives from them.
    """
    for value in list(graph.initializers.values()):
        name = (value.name or "").removeprefix("llama.")
        if tied and name == "lm_head.weight":
            name = "model.embed_tokens.weight"
        graph.initializers.pop(value.name or "")
        value.name = name
        value.const_value = None
        if name.endswith("rotary_emb.inv_freq"):
            value.const_value = ir.tensor(inv_freq.float().numpy(), name=name)
        graph.initializers[name] = value
