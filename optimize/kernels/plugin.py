"""Register the project's operators as TensorRT's plugins, their kernels compiled beforehand.

TensorRT asks at build time for a kernel's code and launch, and keeps both in the plan: what loads
the plan needs neither Python nor these files. Device subset.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellama.optimize.error import BuildError
from edgellama.optimize.kernels.kernel_files import CompiledKernel, read_kernels
from edgellama.optimize.kernels.plugin_operators import OPERATORS, Operator, Plugin, threads

NAMESPACE = "edgellama"
# An attribute's type -> what TensorRT is told. A number is an array of one: of that TensorRT 10.16
# cannot make the `int` that it was told of, where NumPy is 2.4 or later.
_ANNOTATIONS: Mapping[type, Any] = {int: NDArray[np.int64], str: str}
_Kernels = Mapping[str, Sequence[tuple[CompiledKernel, bytes]]]


@dataclass
class _Current:
    """The kernels of the build under way: TensorRT's registry is the process's, and knows a plugin
    once and for all."""

    kernels: _Kernels
    modules: set[str]


_current = _Current({}, set())


def register_plugins(library: Any, path: Path) -> tuple[CompiledKernel, ...]:
    """Let the builder of `library` find the operators with the kernels of a file; returns these.

    A later call gives the operators other kernels. Raises EngineError for a damaged file, and
    BuildError where the library has no such plugins.
    """
    kernels = read_kernels(path)
    by_op: dict[str, list[tuple[CompiledKernel, bytes]]] = {}
    for kernel, code in kernels:
        by_op.setdefault(kernel.op, []).append((kernel, code))
    known = {operator.name for operator in OPERATORS}
    unknown = sorted(set(by_op) - known)
    if unknown:
        raise BuildError(f"{path} has kernels of {', '.join(unknown)}; known: {sorted(known)}")
    module = plugin_module(library)
    if module.__name__ not in _current.modules:
        for operator in OPERATORS:
            _register(module, operator)
        _current.modules.add(module.__name__)
    _current.kernels = by_op
    return tuple(kernel for kernel, _ in kernels)


def plugin_module(library: Any) -> Plugin:
    """Return `<library>.plugin` with a way to its data types; raises BuildError where it lacks."""
    name = f"{library.__name__}.plugin"
    try:
        module = import_module(name)
    except ImportError as error:
        raise BuildError(
            f"module {name} cannot be imported ({error}): this library has no plugins whose "
            "kernels are in the plan; use build.target 'trt-native', or TensorRT 10.16 or later"
        ) from error
    if not hasattr(module, "aot_impl"):
        raise BuildError(
            f"{library.__name__} {library.__version__} has no kernels compiled ahead of time for "
            "plugins; it needs 10.16 or later: use build.target 'trt-plain'"
        )
    # A namespace of ours, so that nothing is added to NVIDIA's module.
    names = {key: getattr(module, key) for key in module.__all__}
    return types.SimpleNamespace(
        **names,
        __name__=name,
        data_type=lambda text: _data_type(library, text),
    )


def _data_type(library: Any, text: str) -> Any:
    """Return the member of `DataType` that a format string of autotuning names."""
    return getattr(library.DataType, {"FP16": "HALF", "FP32": "FLOAT"}.get(text, text))


def _plain(value: Any) -> Any:
    """Return an attribute as the operators know it: an int or a str."""
    return value.item() if isinstance(value, np.ndarray) else value


def _signature(
    tensor: type, operator: Operator, more: Sequence[tuple[str, Any]], returns: Any
) -> inspect.Signature:
    """Return what TensorRT reads of a function: its tensors, attributes, and what else it gets."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named = [(name, tensor) for name in operator.inputs]
    named += [(name, _ANNOTATIONS[each]) for name, each in operator.attributes.items()]
    named += more
    parameters = [inspect.Parameter(name, kind, annotation=each) for name, each in named]
    return inspect.Signature(parameters, return_annotation=returns)


def _register(module: Plugin, operator: Operator) -> None:
    """Register the shapes, the types and the kernels of one operator."""
    tensor = module.TensorDesc
    results = types.GenericAlias(tuple, (tensor,) * operator.outputs)
    identity = f"{NAMESPACE}::{operator.name}"

    def named(values: Sequence[Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        names = (*operator.inputs, *operator.attributes)
        everything = {**dict(zip(names, values, strict=False)), **given}
        tensors = {name: everything[name] for name in operator.inputs}
        return tensors, {name: _plain(everything[name]) for name in operator.attributes}

    def describe(*values: Any, **given: Any) -> Any:
        tensors, attributes = named(values, given)
        found = operator.describe(module, tensors, attributes)
        return found if len(found) > 1 else found[0]

    def autotune(*values: Any) -> Any:
        tensors, attributes = named(values[:-1], {})
        fitting = _fitting(operator, tensors, attributes)
        combinations: dict[str, list[int]] = {}
        for kernel, _ in fitting:
            combinations.setdefault(",".join(operator.types(kernel)), []).append(kernel.tactic)
        return [
            module.AutoTuneCombination(kinds, "LINEAR", tactics)
            for kinds, tactics in combinations.items()
        ]

    def implement(*values: Any) -> Any:
        *inputs, _outputs, tactic = values
        tensors, attributes = named(inputs, {})
        kernel, code = _kernel(operator, tensors, attributes, tactic)
        launch = operator.launch(module, kernel, tensors, attributes)
        x, y, z = launch.grid
        parameters = module.KernelLaunchParams(
            grid_x=x,
            grid_y=y,
            grid_z=z,
            block_x=threads(kernel),
            shared_mem=kernel.shared_bytes,
        )
        numbers = [module.SymInt32(number) for number in launch.numbers]
        return kernel.entry, code, parameters, module.SymIntExprs.from_tuple(tuple(numbers))

    outputs = ("outputs", types.GenericAlias(tuple, (tensor,)))
    describe.__signature__ = _signature(  # type: ignore[attr-defined]
        tensor, operator, (), results if operator.outputs > 1 else tensor
    )
    autotune.__signature__ = _signature(  # type: ignore[attr-defined]
        tensor, operator, (outputs,), types.GenericAlias(list, (module.AutoTuneCombination,))
    )
    implement.__signature__ = _signature(  # type: ignore[attr-defined]
        tensor,
        operator,
        (outputs, ("tactic", int)),
        types.GenericAlias(
            tuple, (str | bytes, str | bytes, module.KernelLaunchParams, module.SymExprs)
        ),
    )
    module.register(identity)(describe)
    module.autotune(identity)(autotune)
    module.aot_impl(identity)(implement)


def _fitting(
    operator: Operator, tensors: Mapping[str, Any], attributes: Mapping[str, Any]
) -> list[tuple[CompiledKernel, bytes]]:
    """Return the kernels that were compiled for a node; raises BuildError where there is none."""
    wanted = dict(operator.expect(attributes))
    size = _head_size(tensors)
    if size is not None:
        wanted["D"] = size
    found = [
        (kernel, code)
        for kernel, code in _current.kernels.get(operator.name, ())
        if all(kernel.constants[name] == value for name, value in wanted.items())
        and attributes.get("dtype", kernel.dtype) == kernel.dtype
    ]
    if not found:
        have = [dict(kernel.constants) for kernel, _ in _current.kernels.get(operator.name, ())]
        raise BuildError(
            f"{NAMESPACE}::{operator.name} with {wanted} has no kernel; compiled are {have}: build "
            "the bundle again"
        )
    return found


def _head_size(tensors: Mapping[str, Any]) -> int | None:
    """Return the head size where the shapes say it."""
    source = tensors.get("past_key", tensors.get("partial"))
    if source is None:
        return None
    size = source.shape_expr[3]
    return int(size.constant_value()) if not size.is_fake and size.is_constant else None


def _kernel(
    operator: Operator, tensors: Mapping[str, Any], attributes: Mapping[str, Any], tactic: int
) -> tuple[CompiledKernel, bytes]:
    for kernel, code in _fitting(operator, tensors, attributes):
        if kernel.tactic == tactic:
            return kernel, code
    raise BuildError(f"{NAMESPACE}::{operator.name} has no kernel of tactic {tactic}")
