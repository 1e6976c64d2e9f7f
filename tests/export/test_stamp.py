"""A graph whose layers are stamped is the graph that tracing every layer gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx_ir")

import numpy as np
import onnx_ir as ir
from transformers import LlamaConfig

from edgellama.export import trace
from edgellama.export.stamp import stamp_layers

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES = {
    "untied, llama3 rope, 3 layers, float16": (
        "float16",
        {
            "num_hidden_layers": 3,
            "tie_word_embeddings": False,
            "rope_parameters": LLAMA3_ROPE,
            "head_dim": 32,
            "num_key_value_heads": 1,
        },
    ),
    "tied, 4 layers, float32": ("float32", {"num_hidden_layers": 4}),
}


def make_config(**overrides: Any) -> LlamaConfig:
    settings = {
        "vocab_size": 258,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }
    return LlamaConfig(**{**settings, **overrides})


class Canon:
    """Names whatever an exporter numbers as it likes by the order of first appearance."""

    def __init__(self) -> None:
        self.symbols: dict[str, str] = {}
        self.values: dict[ir.Value, str] = {}

    def shape(self, value: ir.Value) -> list[Any] | None:
        if value.shape is None:
            return None
        return [size if isinstance(size, int) else self._symbols(str(size)) for size in value.shape]

    def _symbols(self, text: str) -> str:
        return " + ".join(
            self.symbols.setdefault(part, f"s{len(self.symbols)}") for part in text.split(" + ")
        )

    def interface(self, value: ir.Value) -> tuple[Any, ...]:
        self.values[value] = value.name or ""
        return value.name, value.dtype, str(value.shape)

    def read(self, value: ir.Value | None) -> Any:
        if value is None or value in self.values:
            return None if value is None else self.values[value]
        assert value.is_initializer(), f"{value} is read before it is made"
        tensor = value.const_value
        if tensor is None:
            return value.name
        return tensor.dtype, tuple(tensor.shape), tensor.tobytes()

    def make(self, value: ir.Value) -> tuple[Any, ...]:
        if not value.is_graph_output():
            self.values[value] = f"value {len(self.values)}"
        return self.values[value], value.dtype, self.shape(value)


def stored(attribute: ir.Attr) -> str:
    """What a file has of an attribute: a number in float32."""
    if attribute.type == ir.AttributeType.FLOAT:
        return str(np.float32(attribute.as_float()))
    return str(attribute.value)


def described(model: ir.Model) -> dict[str, list[Any]]:
    graph, canon = model.graph, Canon()
    interface = [canon.interface(value) for value in (*graph.inputs, *graph.outputs)]
    nodes = [
        (
            # A node without a version has that of its domain.
            (node.domain, node.op_type, node.version or model.opset_imports[node.domain]),
            [canon.read(value) for value in node.inputs],
            sorted((name, attr.type, stored(attr)) for name, attr in node.attributes.items()),
            [canon.make(value) for value in node.outputs],
        )
        for node in graph
    ]
    initializers = [
        (value.name if value.const_value is None else "constant", value.dtype, str(value.shape))
        for value in graph.initializers.values()
    ]
    return {"interface": interface, "nodes": nodes, "initializers": initializers}


def two_layers() -> ir.Model:
    """A hand-made model of two layers `x + MatMul(x * shared, Transpose(W))`."""
    shared = ir.Value(name="shared", const_value=ir.tensor(2.0, name="shared"))
    first = hidden = ir.Value(name="x")
    nodes, weights, past, present = [], [], [], []
    for layer in range(2):
        weight = ir.Value(name=f"model.layers.{layer}.mlp.down_proj.weight")
        key = ir.Value(name=f"past_key_values.{layer}.key")
        made = ir.Value(name=f"present.{layer}.key")
        scaled = ir.node("Mul", [hidden, shared])
        kept = ir.node("Concat", [key, scaled.outputs[0]], {"axis": 0}, outputs=[made])
        turned = ir.node("Transpose", [weight])
        product = ir.node("MatMul", [made, turned.outputs[0]])
        added = ir.node("Add", [hidden, product.outputs[0]], outputs=[ir.Value(name=f"h{layer}")])
        nodes += [scaled, kept, turned, product, added]
        weights.append(weight)
        past.append(key)
        present.append(made)
        hidden = added.outputs[0]
    last = ir.node("Neg", [hidden], outputs=[ir.Value(name="logits")])
    graph = ir.Graph(
        [first, *past],
        [last.outputs[0], *present],
        nodes=[*nodes, last],
        initializers=[*weights, shared],
        opset_imports={"": 23},
    )
    return ir.Model(graph, ir_version=10)


def test_each_layer_reads_the_one_before_and_its_own_weights() -> None:
    model = two_layers()
    stamp_layers(model, 4)
    graph = model.graph
    past = [f"past_key_values.{layer}.key" for layer in range(4)]
    assert [value.name for value in graph.inputs] == ["x", *past]
    assert [value.name for value in graph.outputs] == [
        "logits",
        *(f"present.{layer}.key" for layer in range(4)),
    ]
    names = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(4)]
    assert list(graph.initializers) == [*names, "shared"]
    adds = [node for node in graph if node.op_type == "Add"]
    assert [node.inputs[0] for node in adds[1:]] == [node.outputs[0] for node in adds[:-1]]
    assert graph[-1].inputs[0] is adds[-1].outputs[0]
    assert [n.inputs[1].name for n in graph if n.op_type == "Mul" and n.inputs[1]] == ["shared"] * 4


def test_a_layer_that_is_read_elsewhere_is_not_stamped() -> None:
    model = two_layers()
    scaled = next(n for n in reversed(model.graph) if n.op_type == "Mul")
    model.graph.append(ir.node("Neg", [scaled.outputs[0]]))
    with pytest.raises(RuntimeError, match="layer 1 also hands on"):
        stamp_layers(model, 3)


def test_a_layer_that_reads_into_the_one_before_is_not_stamped() -> None:
    model = two_layers()
    norm = ir.Value(name="model.layers.0.norm.weight")
    model.graph.initializers["model.layers.0.norm.weight"] = norm
    second = next(n for n in reversed(model.graph) if n.op_type == "Mul")
    second.replace_input_with(1, norm)
    with pytest.raises(RuntimeError, match=r"also reads model\.layers\.0\.norm\.weight"):
        stamp_layers(model, 3)


def test_a_graph_of_another_form_is_not_stamped() -> None:
    model = two_layers()
    add = next(n for n in reversed(model.graph) if n.op_type == "Add")
    model.graph.append(ir.node("Neg", [add.inputs[1]]))
    with pytest.raises(RuntimeError, match="not by one Add"):
        stamp_layers(model, 3)


@pytest.mark.parametrize(
    "case", [next(iter(CASES)), pytest.param("tied, 4 layers, float32", marks=pytest.mark.slow)]
)
def test_stamped_layers_are_traced_layers(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no earlier trace is there
    dtype, overrides = CASES[case]
    stamped = trace.trace_llama(make_config(**overrides), dtype)
    traced = trace.trace_every_layer(make_config(**overrides), dtype)
    ours, theirs = described(stamped), described(traced)
    monkeypatch.setattr(trace, "trace_every_layer", None)
    kept = trace.trace_llama(make_config(**overrides), dtype)
    assert ir.to_proto(kept) == ir.to_proto(stamped), "a trace that was kept is another"
    assert ours["interface"] == theirs["interface"]
    assert ours["initializers"] == theirs["initializers"]
    assert len(ours["nodes"]) == len(theirs["nodes"])
    for index, (mine, other) in enumerate(zip(ours["nodes"], theirs["nodes"], strict=True)):
        assert mine == other, f"node {index} differs"
    names = [value.name for node in stamped.graph for value in node.outputs]
    assert len(set(names)) == len(names)
    assert stamped.metadata_props == traced.metadata_props
    assert stamped.opset_imports == traced.opset_imports
