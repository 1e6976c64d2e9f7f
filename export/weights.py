"""Attach a checkpoint's weights to a traced graph, lazily: nothing is read until it is written."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from edgellama.export.checkpoint import Checkpoint
from edgellama.export.error import ExportError

IR_DTYPES = {
    "float32": (torch.float32, ir.DataType.FLOAT),
    "float16": (torch.float16, ir.DataType.FLOAT16),
    "bfloat16": (torch.bfloat16, ir.DataType.BFLOAT16),
}


def to_numpy(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """View a CPU tensor as numpy; bfloat16 becomes the `ml_dtypes` type of the same bits."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return np.asarray(tensor.numpy())


def _cast(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """Cast, refusing values that the narrower type turns into infinity."""
    out = tensor.to(dtype)
    if dtype == torch.float16 and not bool(torch.isfinite(out).all()):
        raise ExportError(
            f"tensor {name} exceeds the float16 range (largest |value| "
            f"{float(tensor.abs().max()):.4g}, limit 65504); use bfloat16 or float32"
        )
    return out


def _reader(
    checkpoint: Checkpoint, name: str, dtype: torch.dtype, transposed: bool
) -> Callable[[], ir.TensorProtocol]:
    def read() -> ir.TensorProtocol:
        tensor = _cast(checkpoint.read(name), dtype, name)
        if transposed:
            tensor = tensor.t().contiguous()
        return ir.Tensor(to_numpy(tensor), name=name)

    return read


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


def attach_weights(model: ir.Model, checkpoint: Checkpoint, dtype: str) -> None:
    """Give every weight of the traced graph its data, read and cast when it is serialised.

    Linear weights become `[K, N]` (inputs by outputs), the layout of ONNX `MatMul`.
    """
    graph = model.graph
    torch_dtype, ir_dtype = IR_DTYPES[dtype]
    for value in list(graph.initializers.values()):
        name = value.name or ""
        if value.const_value is not None:
            continue
        if name not in checkpoint.tensors:
            raise ExportError(f"the traced graph wants tensor {name}, which the checkpoint lacks")
        transposed = _fold_transpose(graph, value)
        shape = checkpoint.tensors[name].shape
        if transposed:
            shape = shape[::-1]
        value.shape = ir.Shape(shape)
        value.const_value = ir.LazyTensor(
            _reader(checkpoint, name, torch_dtype, transposed),
            dtype=ir_dtype,
            shape=ir.Shape(shape),
            name=name,
        )
