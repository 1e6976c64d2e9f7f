"""Attach a checkpoint's weights to a traced graph: nothing is read until it is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from edgellama.export.checkpoint import Checkpoint
from edgellama.export.error import ExportError
from edgellama.export.streamed import StreamedTensor

IR_DTYPES = {
    "float32": (torch.float32, ir.DataType.FLOAT),
    "float16": (torch.float16, ir.DataType.FLOAT16),
    "bfloat16": (torch.bfloat16, ir.DataType.BFLOAT16),
}
_TORCH_DTYPES = {ir_dtype: torch_dtype for torch_dtype, ir_dtype in IR_DTYPES.values()}
_BLOCK_BYTES = 8 << 20  # read, checked and cast at a time, of the wider type: in the cache
_PANEL_BYTES = 512 << 20  # of a transposed weight held at a time; a larger one is read repeatedly
_STRIP = 16  # rows transposed at a time: as many cache lines as a core keeps apart


def to_numpy(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """View a CPU tensor as numpy; bfloat16 becomes the `ml_dtypes` type of the same bits."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return np.asarray(tensor.numpy())


def _cast(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """Cast, refusing values that the narrower type turns into infinity."""
    out = tensor.to(dtype)
    if dtype != torch.float32 and out.dtype != tensor.dtype:
        extremes = torch.stack(torch.aminmax(out))
        if not bool(torch.isfinite(extremes).all()):
            raise ExportError(
                f"tensor {name} exceeds the {str(dtype).removeprefix('torch.')} range (largest "
                f"|value| {float(tensor.abs().max()):.4g}, limit {torch.finfo(dtype).max:.6g}); "
                f"use {'bfloat16 or ' if dtype == torch.float16 else ''}float32"
            )
    return out


class CheckpointTensor(StreamedTensor):
    """A weight of the graph, cast from the checkpoint `[N, K]`; stored `[K, N]` if `transposed`.

    Writing holds one block, or one panel `[k, N]` of a transposed weight; `rows` reads the
    checkpoint itself, for passes that quantise.
    """

    def __init__(
        self, checkpoint: Checkpoint, name: str, dtype: ir.DataType, *, transposed: bool
    ) -> None:
        shape = checkpoint.tensors[name].shape
        super().__init__(self._content, dtype, shape[::-1] if transposed else shape, name)
        self.checkpoint_name = name
        self.transposed = transposed
        self._checkpoint = checkpoint
        self._rows, self._width = shape[0], shape[1] if len(shape) > 1 else 1

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return rows of the checkpoint's `[N, K]` (or `[N]`) in float32, whatever is stored."""
        read = self._checkpoint.read_rows(self.checkpoint_name, start, stop)
        return np.asarray(read.float().numpy())

    def _blocks(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield (start, rows as stored in the graph but for the transposition)."""
        dtype = _TORCH_DTYPES[self.dtype]
        step = max(1, _BLOCK_BYTES // (4 * self._width))
        for start in range(0, self._rows, step):
            stop = min(start + step, self._rows)
            read = self._checkpoint.read_rows(self.checkpoint_name, start, stop)
            yield start, to_numpy(_cast(read, dtype, self.checkpoint_name))

    def _content(self) -> Iterator[npt.NDArray[Any]]:
        if not self.transposed:
            for _, block in self._blocks():
                yield block
            return
        width = max(1, _PANEL_BYTES * 8 // (self.dtype.bitwidth * self._rows))
        for first in range(0, self._width, width):
            yield self._panel(slice(first, min(first + width, self._width)))

    def _panel(self, columns: slice) -> npt.NDArray[Any]:
        """Return the checkpoint's columns as rows `[k, N]`.

        The copies move plain integers: numpy copies its extension types one by one.
        """
        bits = np.dtype(f"u{self.dtype.bitwidth // 8}")
        panel = np.empty((columns.stop - columns.start, self._rows), bits)
        for start, block in self._blocks():
            for strip in range(0, len(block), _STRIP):
                part = block[strip : strip + _STRIP].view(bits)
                panel[:, start + strip : start + strip + len(part)] = part[:, columns].T
        return panel.view(self.dtype.numpy())


def _fold_transpose(graph: ir.Graph, value: ir.Value) -> bool:
    """Drop the `Transpose` behind a linear's weight; the weight is then stored `[K, N]`.

    A table that is also gathered (the tied embedding) keeps its layout and its `Transpose`.
    """
    nodes = [use.node for use in value.uses()]
    if len(nodes) != 1 or nodes[0].op_type != "Transpose":
        return False
    (node,) = nodes
    node.outputs[0].replace_all_uses_with(value)
    graph.remove(node, safe=True)
    return True


def fold_linears(model: ir.Model) -> dict[str, bool]:
    """Store every linear's weight `[K, N]` (inputs by outputs), the layout of ONNX `MatMul`.

    Returns the names of the weights without data, and whether each was transposed.
    """
    transposed = {}
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            continue
        transposed[name] = _fold_transpose(model.graph, value)
        if transposed[name] and value.shape is not None:
            value.shape = ir.Shape(list(value.shape)[::-1])
    return transposed


def attach_weights(model: ir.Model, checkpoint: Checkpoint, dtype: str) -> None:
    """Give every weight of the traced graph its data, a `CheckpointTensor` each.

    Linear weights become `[K, N]`. Raises ExportError for a weight that the checkpoint lacks.
    """
    for name, transposed in fold_linears(model).items():
        if name not in checkpoint.tensors:
            raise ExportError(f"the traced graph wants tensor {name}, which the checkpoint lacks")
        tensor = CheckpointTensor(checkpoint, name, IR_DTYPES[dtype][1], transposed=transposed)
        value = model.graph.initializers[name]
        value.shape = tensor.shape
        value.const_value = tensor
