"""Drive the plugins as TensorRT's builder does, on its real bindings over libraries that are empty.

    python drive_plugin.py SITE KERNELS [FAULT]

reads questions, one JSON object a line, and answers each with a line. Sizes are plain numbers here:
the classes below stand for the builder's expressions. FAULT is planted in the plugins first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, sys.argv[1])

import tensorrt as trt
import tensorrt.plugin
import tensorrt_bindings.plugin._lib as registry
import tensorrt_bindings.plugin._tensor as tensors

import edgellama.optimize.kernels.plugin as plugins
from edgellama.optimize.kernels.plugin import register_plugins
from edgellama.optimize.kernels.plugin_operators import Operator
from edgellama.optimize.tensorrt.plugins import add_plugins
from edgellama.profiles.profile import load_gpu, load_profile


class Number:
    """A dimension whose size is known."""

    def __init__(self, value: int) -> None:
        self.value = value

    def is_constant(self) -> bool:
        return True

    def is_size_tensor(self) -> bool:
        return False

    def get_constant_value(self) -> int:
        return self.value


class Numbers:
    """The builder of expressions, over numbers."""

    def constant(self, value: int) -> Number:
        return Number(value)

    def operation(self, kind: Any, a: Number, b: Number) -> Number:
        x, y = a.value, b.value
        compute = {
            "SUM": lambda: x + y,
            "SUB": lambda: x - y,
            "PROD": lambda: x * y,
            "FLOOR_DIV": lambda: x // y,
            "CEIL_DIV": lambda: -(-x // y),
            "MAX": lambda: max(x, y),
            "MIN": lambda: min(x, y),
            "EQUAL": lambda: int(x == y),
            "LESS": lambda: int(x < y),
        }
        return Number(compute[kind.name]())


class Creators:
    """TensorRT's registry of plugins, which the empty library has not."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> bool:
        self.known[creator.name, namespace] = creator
        return True

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.known.get((name, namespace))


class Symbols(dict[int, Any]):
    """Where a plugin puts the numbers that its kernel gets."""

    nbSymExprs = 0


class Parameters:
    """Where a plugin puts its launch."""


def description(shape: list[int], kind: str) -> Any:
    dynamic = trt.DynamicPluginTensorDesc()
    inner = dynamic.desc
    inner.dims, inner.type = trt.Dims(shape), trt.DataType.__members__[kind]
    inner.format = trt.TensorFormat.LINEAR
    dynamic.desc = inner
    dynamic.min = dynamic.max = dynamic.opt = trt.Dims(shape)
    return dynamic


def created(name: str, attributes: Mapping[str, int | str]) -> Any:
    """Create a plugin as TensorRT's parser does: a node's number is an array of one."""
    arrays = {key: np.array([value]) for key, value in attributes.items() if key != "dtype"}
    kinds = trt.PluginFieldType
    fields = [trt.PluginField(key, array, kinds.INT64) for key, array in arrays.items()]
    if "dtype" in attributes:
        fields.append(trt.PluginField("dtype", str(attributes["dtype"]).encode(), kinds.CHAR))
    return registry.QDP_CREATORS[f"edgellama::{name}"].create_plugin(
        name,
        "edgellama",
        trt.PluginFieldCollection(fields),
        trt.TensorRTPhase.BUILD,
        trt.QuickPluginCreationRequest.UNKNOWN,
    )


def ask(question: dict[str, Any]) -> dict[str, Any]:
    """Go through what the builder asks of a plugin, in its order."""
    plugin = created(question["op"], question["attributes"])
    shapes, kinds = question["shapes"], question["types"]
    inputs = [trt.DataType.__members__[kind] for kind in kinds]
    outputs = plugin.get_output_data_types(inputs, [len(shape) for shape in shapes])
    sizes = plugin.get_output_shapes(
        [[Number(size) for size in shape] for shape in shapes], [], Numbers()
    )
    found = [[size.value for size in shape] for shape in sizes]
    described = [description(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
    described += [description(shape, kind.name) for shape, kind in zip(found, outputs, strict=True)]
    count = len(described)
    combinations = plugin.get_supported_format_combinations(described, len(shapes))
    names = [each.type.name for each in combinations]
    plugin.configure_plugin(described[: len(shapes)], described[len(shapes) :])
    answer: dict[str, Any] = {
        "output_types": [kind.name for kind in outputs],
        "output_shapes": found,
        "aliases": [plugin.get_aliased_input(index) for index in range(len(outputs))],
        "combinations": [names[at : at + count] for at in range(0, len(names), count)],
        "formats": sorted({each.format.name for each in combinations}),
        "tactics": plugin.get_valid_tactics(),
        "launches": [],
    }
    for tactic in answer["tactics"]:
        plugin.set_tactic(tactic)
        parameters, symbols = Parameters(), Symbols()
        plugin.get_launch_params(None, described, len(shapes), parameters, symbols, Numbers())
        inner = [each.desc for each in described]
        name, code = plugin.get_kernel(inner[: len(shapes)], inner[len(shapes) :])
        answer["launches"].append(
            {
                **{key: symbol.number for key, symbol in vars(parameters).items()},
                "numbers": [symbols[index].number for index in range(symbols.nbSymExprs)],
                "entry": name,
                "code": code.hex(),
            }
        )
    return answer


class Config:
    """Takes preview features, or not."""

    def __init__(self, takes: bool) -> None:
        self.takes = takes
        self.features: list[str] = []

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        if self.takes and enable:
            self.features.append(feature.name)

    def get_preview_feature(self, feature: Any) -> bool:
        return feature.name in self.features


def prepare_builder(question: dict[str, Any]) -> dict[str, Any]:
    """Give a builder's configuration the plugins of a profile, on a GPU of the question's."""
    profile = load_profile("l4-8b-kv8")
    device = replace(profile.device, gpu=load_gpu(question["gpu"]), memory_gib=8.0)
    config = Config(question["takes"])
    add_plugins(trt, config, replace(profile, device=device), Path(sys.argv[2]))
    return {"features": config.features}


def count_with_numbers() -> None:
    """Let plain numbers pass where the bindings ask for expressions of the library's own."""
    trt.IDimensionExpr = Number
    trt.DimsExprs = lambda length: [None] * length

    def keep(self: Any, expression: Any) -> None:
        trt.ISymExpr.__init__(self)
        self.number = expression._expr.value

    tensors.SymExprImpl.__init__ = keep


def describing(change: Callable[[tuple[Any, ...], Any], tuple[Any, ...]]) -> Any:
    """Return a change of an operator: other outputs, of its own ones and of its inputs."""
    return lambda operator: replace(
        operator,
        describe=lambda plugin, inputs, attributes: change(
            operator.describe(plugin, inputs, attributes), inputs
        ),
    )


def launching(**change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Any:
    """Return a change of an operator: another grid, or other numbers, of its own ones."""

    def changed(operator: Operator) -> Operator:
        def launch(*values: Any) -> Any:
            own = operator.launch(*values)
            return replace(own, **{key: each(getattr(own, key)) for key, each in change.items()})

        return replace(operator, launch=launch)

    return changed


def typing_as(place: int, kind: str) -> Any:
    """Return a change of an operator: another type at a place of its inputs and outputs."""

    def changed(operator: Operator) -> Operator:
        def types(kernel: Any) -> list[str]:
            own = list(operator.types(kernel))
            return [*own[:place], kind, *own[place + 1 :]]

        return replace(operator, types=types)

    return changed


# What can be planted in the attention's operators, by name.
FAULTS: Mapping[str, Callable[[Operator], Operator]] = {
    "swapped aliases": describing(lambda out, _: (*out[:-2], out[-1], out[-2])),
    "no alias": describing(lambda out, given: (*out[:-1], given["past_value"].like())),
    "alias of another input": describing(lambda out, given: (*out[:-1], given["qkv"].aliased())),
    "wrong type of an output": describing(lambda out, given: (given["rows"].like(), *out[1:])),
    "wrong type of the cache": typing_as(1, "FP16"),
    "wrong type of the rows": typing_as(3, "INT64"),
    "wrong order of the numbers": launching(numbers=lambda own: own[::-1]),
    "a number too many": launching(numbers=lambda own: (*own, own[0])),
    "wrong order of the grid": launching(grid=lambda own: (own[1], own[0], own[2])),
    "tiles of half the size": launching(grid=lambda own: (own[0] + own[0], *own[1:])),
}


def plant(fault: str) -> None:
    """Change the attention's operators before they are registered."""
    plugins.OPERATORS = tuple(  # type: ignore[attr-defined]
        FAULTS[fault](operator) if operator.name.startswith("FusedGQA") else operator
        for operator in plugins.OPERATORS  # type: ignore[attr-defined]
    )


def main() -> None:
    """Register once, then answer."""
    for fault in sys.argv[3:]:
        plant(fault)
    creators = Creators()
    trt.get_plugin_registry = lambda: creators
    try:
        kernels = register_plugins(trt, Path(sys.argv[2]))
        register_plugins(trt, Path(sys.argv[2]))  # again, with others, is allowed
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return
    count_with_numbers()
    names = sorted(f"{namespace}::{name}" for name, namespace in creators.known)
    print(json.dumps({"kernels": len(kernels), "creators": names}), flush=True)
    for line in sys.stdin:
        try:
            question = json.loads(line)
            answer = ask(question) if "op" in question else prepare_builder(question)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
