"""A small attention graph of target `ort` over the weights of `small_llama`, and its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from small_llama import (
    CAPACITY,
    CHUNK,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    SLOTS,
    VOCAB,
    WEIGHTS,
    Array,
)

from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Build, Device, Limits, Precision, Profile
from edgellama.runtime.contract import graph_inputs, graph_outputs
from edgellama.runtime.manifest import KvLayout, Manifest

BLOCK = 32


def quantised_head() -> tuple[Array, dict[str, npt.NDArray[np.generic]]]:
    """Return the head after 8-bit rounding, and the initialisers of its MatMulNBits."""
    blocks = WEIGHTS["head"].T.reshape(VOCAB, HIDDEN // BLOCK, BLOCK)
    scales = np.abs(blocks).max(-1) / 127
    codes = np.round(blocks / scales[..., None])
    rounded = (codes * scales[..., None]).reshape(VOCAB, HIDDEN).T.astype(np.float32)
    return rounded, {
        "head_codes": (codes + 128).astype(np.uint8),
        "head_scales": scales.astype(np.float32),
    }


def attention_nodes(layer: int, packed: str, prefix: str = "") -> list[onnx.NodeProto]:
    """Return the node that attends over the cache of a prefix, and one that flattens it."""
    past = f"{prefix}past_key_values.{layer}"
    return [
        helper.make_node(
            "GroupQueryAttention",
            [
                packed,
                "",
                "",
                f"{past}.key",
                f"{past}.value",
                f"{prefix}seqlens_k",
                f"{prefix}total_sequence_length",
                "cos",
                "sin",
            ],
            [
                f"{prefix}attended.{layer}",
                f"{prefix}present.{layer}.key",
                f"{prefix}present.{layer}.value",
            ],
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
            do_rotary=1,
        ),
        helper.make_node(
            "Reshape", [f"{prefix}attended.{layer}", "flat"], [f"{prefix}rows.{layer}"]
        ),
    ]


def mixed_nodes(layer: int) -> list[onnx.NodeProto]:
    """Return the nodes of rows and a chunk apart, joined in the order of the tokens."""
    node = helper.make_node
    return [
        node("Reshape", [f"packed.{layer}", "flat_qkv"], [f"tokens.{layer}"]),
        node("Gather", [f"tokens.{layer}", "decode_rows"], [f"row_tokens.{layer}"]),
        node("Gather", [f"tokens.{layer}", "chunk_rows"], [f"chunk_tokens.{layer}"]),
        *attention_nodes(layer, f"row_tokens.{layer}"),
        *attention_nodes(layer, f"chunk_tokens.{layer}", "chunk_"),
        node("Concat", [f"rows.{layer}", f"chunk_rows.{layer}"], [f"joined.{layer}"], axis=0),
        node("Gather", [f"joined.{layer}", "token_order"], [f"mixed.{layer}"]),
    ]


def make_graph(
    path: Path,
    *,
    quantised: bool = False,
    mixed: bool = False,
    weights: Mapping[str, Array] = WEIGHTS,
) -> None:
    """Write embedding, `LAYERS` x (packed qkv, attention of rows and chunk, out), rows, head."""
    node = helper.make_node
    initialisers = {name: w for name, w in weights.items() if not (quantised and name == "head")}
    nodes = [node("Gather", ["embedding", "input_ids"], ["hidden.0"])]
    for layer in range(LAYERS):
        nodes += [
            node("MatMul", [f"hidden.{layer}", f"qkv.{layer}"], [f"packed.{layer}"]),
            *(
                mixed_nodes(layer)
                if mixed
                else [
                    *attention_nodes(layer, f"packed.{layer}"),
                    node("Identity", [f"attended.{layer}"], [f"mixed.{layer}"]),
                ]
            ),
            node("MatMul", [f"mixed.{layer}", f"out.{layer}"], [f"added.{layer}"]),
            node("Add", [f"hidden.{layer}", f"added.{layer}"], [f"hidden.{layer + 1}"]),
        ]
    nodes += [
        node("Reshape", [f"hidden.{LAYERS}", "flat"], ["flattened"]),
        node("Gather", ["flattened", "logits_indices"], ["rows"]),
    ]
    if quantised:
        _, extra = quantised_head()
        nodes.append(
            node(
                "MatMulNBits",
                ["rows", *extra],
                ["logits"],
                domain="com.microsoft",
                K=HIDDEN,
                N=VOCAB,
                bits=8,
                block_size=BLOCK,
            )
        )
    else:
        extra = {}
        nodes.append(node("MatMul", ["rows", "head"], ["logits"]))
    types = {
        "float32": TensorProto.FLOAT,
        "int32": TensorProto.INT32,
        "int64": TensorProto.INT64,
    }

    def declare(tensors):  # type: ignore[no-untyped-def]
        return [helper.make_tensor_value_info(t.name, types[t.dtype], t.shape) for t in tensors]

    graph = helper.make_graph(
        nodes,
        "small",
        declare(graph_inputs("ort", KV, is_mixed=mixed)),
        declare(graph_outputs(KV, VOCAB, is_mixed=mixed)),
        [numpy_helper.from_array(w, name) for name, w in {**initialisers, **extra}.items()]
        + [
            numpy_helper.from_array(np.array([-1, HIDDEN]), "flat"),
            numpy_helper.from_array(np.array([-1, (HEADS + 2 * KV_HEADS) * HEAD_DIM]), "flat_qkv"),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 10
    onnx.save(model, path)


KV = KvLayout(LAYERS, KV_HEADS, HEAD_DIM, SLOTS, CAPACITY, "float32")
PROFILE = Profile(
    name="test",
    description="",
    model="",
    device=Device("cpu", 1.0, 1),
    build=Build("ort", "onnxruntime"),
    precision=Precision("fp32", "fp32", "fp32"),
    limits=Limits(SLOTS, CAPACITY, CHUNK, 4),
)
MANIFEST = Manifest(
    profile=PROFILE,
    model=ModelConfig(
        VOCAB, HIDDEN, 1, LAYERS, HEADS, KV_HEADS, HEAD_DIM, CAPACITY, 1e-5, 1e4, None, False
    ),
    source="test",
    fingerprint="",
    graph="model.onnx",
    inputs=graph_inputs("ort", KV),
    outputs=graph_outputs(KV, VOCAB),
    kv=KV,
    files={},
    versions={},
    build={},
    verify={},
)
# What says that a graph takes rows and a chunk in one step; its weights are floats all the same.
MIXED_MANIFEST = replace(
    MANIFEST,
    profile=replace(PROFILE, precision=Precision("int8_rows", "fp32", "fp32")),
    inputs=graph_inputs("ort", KV, is_mixed=True),
    outputs=graph_outputs(KV, VOCAB, is_mixed=True),
)
