"""Run a target's passes in order and hold each to the count that the model's shape demands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from edgellama.optimize.error import BuildError as BuildError


@dataclass(frozen=True)
class PassStep:
    """A named pass and how often it must fire on this model."""

    name: str
    run: Callable[[ir.Model], int]
    expected: int


def run_passes(model: ir.Model, steps: tuple[PassStep, ...]) -> dict[str, int]:
    """Apply the steps to the model in place; returns the counts.

    Raises BuildError when a count differs: a fusion that silently stopped matching would not be
    wrong, only slow, and nobody would notice.
    """
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.name] = fired = step.run(model)
        if fired != step.expected:
            raise BuildError(
                f"pass {step.name} fired {fired} times, this model needs {step.expected}; "
                f"done so far: {counts}. The exporter's graph has changed: check the versions of "
                "torch, onnxscript and transformers against constraints.txt"
            )
    return counts
