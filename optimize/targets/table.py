"""The targets: what makes each one's graph of a quantised portable one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import onnx_ir as ir

from edgellama.optimize.pipeline import PassStep
from edgellama.optimize.targets import ort, trt_native, trt_plain, trt_plugin
from edgellama.optimize.targets.trt_interface import finish_interface
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Precision, Profile

Steps: TypeAlias = Callable[[ModelConfig, Profile, int], tuple[PassStep, ...]]
_OfPrecision: TypeAlias = Callable[[ModelConfig, Precision, int], tuple[PassStep, ...]]


@dataclass(frozen=True)
class Target:
    """`steps(model, profile, capacity)` are the passes with their counts; `finish(graph,
    capacity)` gives the graph its public interface."""

    steps: Steps
    finish: Callable[[ir.Model, int], None]


def _of_precision(steps: _OfPrecision) -> Steps:
    """Return the steps of a target that nothing but the precision decides."""
    return lambda model, profile, capacity: steps(model, profile.precision, capacity)


TARGETS: Mapping[str, Target] = {
    "ort": Target(
        _of_precision(ort.ort_steps), lambda graph, _capacity: ort.finish_interface(graph)
    ),
    "trt-native": Target(
        _of_precision(trt_native.trt_native_steps),
        partial(finish_interface, opset=trt_native.OPSET),
    ),
    "trt-plugin": Target(
        trt_plugin.trt_plugin_steps, partial(finish_interface, opset=trt_plugin.OPSET)
    ),
    "trt-plain": Target(
        _of_precision(trt_plain.trt_plain_steps),
        partial(finish_interface, opset=trt_plain.OPSET),
    ),
}
