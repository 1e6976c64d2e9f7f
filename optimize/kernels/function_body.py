"""The nodes of an ONNX function, written one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

DOMAIN = "edgellama"
_OPSET = 21


@dataclass
class Body:
    """Nodes in the making, with the constants that a function may hold as nodes only."""

    tape: Tape = field(default_factory=Tape)

    def __call__(self, op_type: str, *inputs: ir.Value | None, **attributes: object) -> ir.Value:
        """Append a node of one output."""
        return self.tape.op(op_type, list(inputs), attributes)  # type: ignore[arg-type]

    def split(self, value: ir.Value, sizes: Sequence[int], axis: int) -> Sequence[ir.Value]:
        """Cut a value along an axis."""
        return self.tape.op_multi_out(
            "Split", [value, self.integers(*sizes)], {"axis": axis}, num_outputs=len(sizes)
        )

    def integers(self, *values: int) -> ir.Value:
        """Return an int64 constant [len(values)]."""
        return self("Constant", value=ir.tensor(np.array(values, np.int64)))

    def integer(self, value: int) -> ir.Value:
        """Return an int64 constant []."""
        return self("Constant", value=ir.tensor(np.array(value, np.int64)))

    def number(self, value: float) -> ir.Value:
        """Return a float32 constant []."""
        return self("Constant", value=ir.tensor(np.array(value, np.float32)))

    def cast(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        """Convert a value."""
        return self("Cast", value, to=to.value)

    def wide(self, value: ir.Value, *axes: int) -> ir.Value:
        """Insert axes of size 1."""
        return self("Unsqueeze", value, self.integers(*axes))

    def reshape(self, value: ir.Value, *shape: int) -> ir.Value:
        """Give a value another shape; 0 keeps an axis."""
        return self("Reshape", value, self.integers(*shape))

    def function(
        self,
        name: str,
        inputs: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
        attributes: Sequence[ir.Attr],
    ) -> ir.Function:
        """Return the function of the domain that these nodes are.

        `attributes` are declared because its node carries them: the nodes here have their values.
        """
        graph = ir.Graph(inputs, outputs, nodes=self.tape.nodes, opset_imports={"": _OPSET})
        return ir.Function(DOMAIN, name, graph=graph, attributes=attributes)


def declare(kind: ir.AttributeType, *names: str) -> list[ir.Attr]:
    """Return attributes without a default, as a function declares them."""
    return [ir.Attr(name, kind, None) for name in names]
