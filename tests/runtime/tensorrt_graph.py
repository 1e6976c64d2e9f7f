"""The graph of `small_llama` in the interface of the TensorRT targets, in ONNX's own operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from small_llama import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, VOCAB, WEIGHTS

from edgellama.runtime.contract import graph_inputs, graph_outputs
from edgellama.runtime.manifest import KvLayout, TensorInfo

_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
}


def make_graph(path: Path, kv: KvLayout) -> None:
    """Write embedding, layers of TensorScatter and Attention with a boolean mask, rows, head."""
    node = helper.make_node
    constants: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        "positions": np.arange(kv.capacity).reshape(1, 1, 1, -1),
        "mask_axes": np.array([1, 3]),
        "split": np.array([HEADS, KV_HEADS, KV_HEADS]) * HEAD_DIM,
        "heads": np.array([0, 0, HEADS, HEAD_DIM]),
        "kv_heads": np.array([0, 0, KV_HEADS, HEAD_DIM]),
        "joined": np.array([0, 0, HIDDEN]),
        "flat": np.array([-1, HIDDEN]),
    }
    nodes = [
        node("Gather", ["embedding", "input_ids"], ["hidden.0"]),
        node("Unsqueeze", ["position_ids", "mask_axes"], ["reach"]),
        node("LessOrEqual", ["positions", "reach"], ["mask"]),
    ]
    for n in range(LAYERS):
        nodes += [
            node("MatMul", [f"hidden.{n}", f"qkv.{n}"], [f"packed.{n}"]),
            node("Split", [f"packed.{n}", "split"], [f"{x}.{n}" for x in "qkv"], axis=-1),
        ]
        for x, shape in zip("qkv", ("heads", "kv_heads", "kv_heads"), strict=True):
            nodes += [
                node("Reshape", [f"{x}.{n}", shape], [f"{x}_BSHD.{n}"]),
                node("Transpose", [f"{x}_BSHD.{n}"], [f"{x}_BHSD.{n}"], perm=[0, 2, 1, 3]),
            ]
        for x in "qk":
            rotary = [f"{x}_BHSD.{n}", "cos", "sin", "position_ids"]
            nodes.append(node("RotaryEmbedding", rotary, [f"{x}_rotated.{n}"]))
        for kind, update in (("key", f"k_rotated.{n}"), ("value", f"v_BHSD.{n}")):
            past, present = f"past_key_values.{n}.{kind}", f"present.{n}.{kind}"
            scatter = [past, f"stored_{kind}.{n}", "write_indices"]
            nodes += [
                node("Cast", [update], [f"stored_{kind}.{n}"], to=_TYPES[kv.dtype]),
                node("TensorScatter", scatter, [present], axis=2),
                node("Cast", [present], [f"{kind}.{n}"], to=TensorProto.FLOAT),
            ]
        attention = [f"q_rotated.{n}", f"key.{n}", f"value.{n}", "mask"]
        nodes += [
            node("Attention", attention, [f"mixed_BHSD.{n}"]),
            node("Transpose", [f"mixed_BHSD.{n}"], [f"mixed_BSHD.{n}"], perm=[0, 2, 1, 3]),
            node("Reshape", [f"mixed_BSHD.{n}", "joined"], [f"mixed.{n}"]),
            node("MatMul", [f"mixed.{n}", f"out.{n}"], [f"added.{n}"]),
            node("Add", [f"hidden.{n}", f"added.{n}"], [f"hidden.{n + 1}"]),
        ]
    nodes += [
        node("Reshape", [f"hidden.{LAYERS}", "flat"], ["flattened"]),
        node("Gather", ["flattened", "logits_indices"], ["rows"]),
        node("MatMul", ["rows", "head"], ["logits"]),
    ]

    def declare(tensors: tuple[TensorInfo, ...]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(t.name, _TYPES[t.dtype], t.shape) for t in tensors]

    graph = helper.make_graph(
        nodes,
        "small",
        declare(graph_inputs("trt-native", kv)),
        declare(graph_outputs(kv, VOCAB)),
        [numpy_helper.from_array(w, name) for name, w in {**WEIGHTS, **constants}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
    model.ir_version = 11
    onnx.save(model, path)
