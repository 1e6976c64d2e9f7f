"""Repeat the traced decoder layer: every layer of a Llama is the same nodes on other weights."""

from __future__ import annotations

import re

import onnx_ir as ir

TEMPLATE = 1  # the first layer also makes what all layers share: angles, mask, shapes
_LAYER = re.compile(rf"(model\.layers\.|past_key_values\.|present\.){TEMPLATE}(?=\.)")


def _layer_output(graph: ir.Graph, layer: int) -> ir.Value:
    """Return the hidden states that a layer hands on: `x + MatMul(_, Transpose(down_proj))`."""
    value = graph.initializers[f"model.layers.{layer}.mlp.down_proj.weight"]
    for op_type in ("Transpose", "MatMul", "Add"):
        users = [use.node for use in value.uses()]
        types = [node.op_type for node in users]
        if types != [op_type]:
            raise RuntimeError(
                f"{value.name} is read by {types}, not by one {op_type}; the exporter's graph has "
                "changed"
            )
        value = users[0].outputs[0]
    return value


def _ancestors(value: ir.Value) -> set[ir.Node]:
    """Return every node that `value` depends on."""
    found: set[ir.Node] = set()
    waiting = [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found.add(node)
        waiting += [made.producer() for made in node.inputs if made is not None]
    return found


def _reads_first_layer(value: ir.Value) -> bool:
    """Whether a value depends on a weight of the layer before the template."""
    own = f"model.layers.{TEMPLATE - 1}."
    read = [value, *(v for node in _ancestors(value) for v in node.inputs if v is not None)]
    return any((v.name or "").startswith(own) for v in read)


def _body(graph: ir.Graph, before: ir.Value, after: ir.Value) -> list[ir.Node]:
    """Return the nodes of the template layer in graph order, checked to be closed.

    They read `before`, what all layers share, and their own weights and past; they hand on
    `after` and the layer's present alone.
    """
    members = _ancestors(after) - _ancestors(before)
    body = [node for node in graph if node in members]
    read = {v for node in body for v in node.inputs if v is not None and v is not before}
    for value in read - {made for node in body for made in node.outputs}:
        if _reads_first_layer(value):
            raise RuntimeError(f"layer {TEMPLATE} also reads {value.name} of the layer before")
    for node in body:
        for value in node.outputs:
            leaks = any(use.node not in members for use in value.uses())
            present = (value.name or "").startswith(f"present.{TEMPLATE}.")
            if (leaks and value is not after) or (value.is_graph_output() and not present):
                raise RuntimeError(f"layer {TEMPLATE} also hands on {value.name}")
    return body


def _renamed(name: str | None, layer: int) -> str:
    """Return the name that a value of the template has in `layer`."""
    renamed, count = _LAYER.subn(rf"\g<1>{layer}", name or "")
    return renamed if count else f"layer_{layer}/{name}"


def _twin(value: ir.Value, layer: int) -> ir.Value:
    return ir.Value(name=_renamed(value.name, layer), type=value.type, shape=value.shape)


def _stamp(body: list[ir.Node], twins: dict[ir.Value, ir.Value], layer: int) -> list[ir.Node]:
    """Return the body's nodes for `layer`; `twins` maps what they read and make, shared or not."""
    nodes = []
    for node in body:
        outputs = [_twin(value, layer) for value in node.outputs]
        twins.update(zip(node.outputs, outputs, strict=True))
        nodes.append(
            ir.Node(
                node.domain,
                node.op_type,
                [None if value is None else twins.get(value, value) for value in node.inputs],
                list(node.attributes.values()),
                overload=node.overload,
                outputs=outputs,
                version=node.version,
                name=_renamed(node.name, layer),
            )
        )
    return nodes


def stamp_layers(model: ir.Model, num_layers: int) -> None:
    """Extend a model traced with two layers to `num_layers`, as if all had been traced.

    Inputs, outputs and weights of the new layers are named and ordered as those of the first two.
    Raises RuntimeError where the traced graph is not two layers in a row.
    """
    graph = model.graph
    before, after = _layer_output(graph, TEMPLATE - 1), _layer_output(graph, TEMPLATE)
    body = _body(graph, before, after)
    readers = [use for use in after.uses() if use.node not in body]
    initializers = dict(graph.initializers)
    weights = [v for n, v in initializers.items() if n.startswith(f"model.layers.{TEMPLATE}.")]
    past = [v for v in graph.inputs if (v.name or "").startswith(f"past_key_values.{TEMPLATE}.")]
    present = [v for v in graph.outputs if (v.name or "").startswith(f"present.{TEMPLATE}.")]
    new_weights: list[ir.Value] = []
    hidden, anchor = after, body[-1]
    for layer in range(TEMPLATE + 1, num_layers):
        twins = {value: _twin(value, layer) for value in (*weights, *past)}
        new_weights += [twins[value] for value in weights]
        twins[before] = hidden
        nodes = _stamp(body, twins, layer)
        graph.insert_after(anchor, nodes)
        graph.inputs.extend(twins[value] for value in past)
        graph.outputs.extend(twins[value] for value in present)
        hidden, anchor = twins[after], nodes[-1]
    for use in readers:
        use.node.replace_input_with(use.idx, hidden)
    graph.initializers.clear()
    for name, value in initializers.items():
        graph.initializers[name] = value
        if value is weights[-1]:
            graph.initializers.update({v.name or "": v for v in new_weights})
