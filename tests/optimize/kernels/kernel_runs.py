"""Every way to run the fused attention on the CPU, on the same case."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import torch
from interpreter import correct

from edgellama.optimize.kernels.add_functions import add_functions
from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.optimize.kernels.function_body import DOMAIN
from edgellama.optimize.kernels.gqa_function import GQA, GQA_PIECES, INPUTS
from edgellama.optimize.kernels.launch import DTYPES, Inputs, Pieces, attend
from edgellama.optimize.kernels.reference import Case
from edgellama.optimize.kernels.tile import Tile

Run = Callable[[Case], npt.NDArray[np.float64]]
_ONNX = {
    "fp16": ir.DataType.FLOAT16,
    "bf16": ir.DataType.BFLOAT16,
    "int8": ir.DataType.INT8,
    "fp8": ir.DataType.FLOAT8E4M3FN,
}
# Small blocks: the cases are small too, and have several of them.
SMALL = Tile(block_m=16, block_n=16, new_n=16, warps=4, stages=1)
LARGE = Tile(block_m=64, block_n=32, new_n=32, warps=8, stages=2)


def to_torch(array: npt.NDArray[np.generic], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor over the memory of an array."""
    raw = torch.from_numpy(array.reshape(-1).view(np.uint8))
    return raw.view(dtype).reshape(array.shape)


def inputs_of(case: Case) -> Inputs:
    """Return the case as tensors; a launch changes the caches of the case."""
    own, kept = DTYPES[case.shape.dtype], DTYPES[case.shape.kv_dtype]
    return Inputs(
        to_torch(case.qkv, own),
        to_torch(case.past_key, kept),
        to_torch(case.past_value, kept),
        torch.from_numpy(case.rows),
        torch.from_numpy(case.cos),
        torch.from_numpy(case.sin),
        torch.from_numpy(case.key_scale),
        torch.from_numpy(case.value_scale),
    )


def launched(tile: Tile, *, pieces: int = 1, append: bool = True) -> Run:
    """Return a run of the kernels in Triton's interpreter."""

    def run(case: Case) -> npt.NDArray[np.float64]:
        correct()
        inputs = inputs_of(case)
        inputs.check(case.shape)
        tokens, width = len(case.qkv), case.shape.heads * case.shape.head_dim
        out = torch.full((tokens, width), torch.nan, dtype=DTYPES[case.shape.dtype])
        room = None
        if pieces > 1:
            room = Pieces.empty(pieces, tokens, case.shape, out.device)
            room.partial.fill_(torch.nan)
            room.logs.fill_(torch.nan)
        longest = int(case.rows[:, 2].max())
        attend(case.shape, inputs, out, longest=longest, tile=tile, pieces=room, append=append)
        return out.to(torch.float64).numpy()

    return run


def function(op: str, case: Case) -> npt.NDArray[np.float64]:
    """Run the operator's body of standard operators on ONNX Runtime."""
    shape = case.shape
    own, kept = _ONNX[shape.dtype], _ONNX[shape.kv_dtype]
    kinds = {"qkv": own, "past_key": kept, "past_value": kept, "rows": ir.DataType.INT32}
    arrays = {name: getattr(case, name) for name in INPUTS}
    values = [
        ir.val(name, kinds.get(name, ir.DataType.FLOAT), array.shape)
        for name, array in arrays.items()
    ]
    caches = [ir.val(name, kept, case.past_key.shape) for name in ("present_key", "present_value")]
    attention = ir.val("attention", own, (len(case.qkv), shape.heads * shape.head_dim))
    heads = {"kv_heads": shape.kv_heads, "group": shape.group}
    if op == GQA:
        nodes = [ir.node(GQA, values, heads, domain=DOMAIN, outputs=[attention, *caches])]
    else:
        parts = [ir.val("partial"), ir.val("logs")]
        attributes = {**heads, "programs": 100}
        nodes = [
            ir.node(GQA_PIECES, values, attributes, domain=DOMAIN, outputs=[*parts, *caches]),
            ir.node(
                "CombinePieces", parts, {"dtype": shape.dtype}, domain=DOMAIN, outputs=[attention]
            ),
        ]
    opsets = {"": 21, DOMAIN: 1}
    graph = ir.Graph(values, [attention, *caches], nodes=nodes, opset_imports=opsets, name="one")
    model = ir.Model(graph, ir_version=10)
    add_functions(model)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    outputs = {
        "attention": np.empty((len(case.qkv), shape.heads * shape.head_dim), case.qkv.dtype),
        "present_key": case.past_key,
        "present_value": case.past_value,
    }
    for value, array in zip(values, arrays.values(), strict=True):
        _bind(binding.bind_input, value, array)
    for value in (attention, *caches):
        assert value.name is not None
        _bind(binding.bind_output, value, outputs[value.name])
    session.run_with_iobinding(binding)
    return outputs["attention"].astype(np.float64)


def _bind(call: Callable[..., None], value: ir.Value, array: npt.NDArray[np.generic]) -> None:
    assert value.dtype is not None
    number = value.dtype.value
    call(value.name, "cpu", 0, number, list(array.shape), array.ctypes.data)


def runs(shape: AttentionShape) -> dict[str, Run]:
    """Return every way that can run a shape, by name."""
    found: dict[str, Run] = {
        "one launch": launched(SMALL),
        "three pieces": launched(SMALL, pieces=3),
        "append, then attend": launched(LARGE, append=False),
    }
    if shape.dtype != "bf16":  # the CPU of ONNX Runtime has no operators for it
        found["function"] = lambda case: function(GQA, case)
        found["function of pieces"] = lambda case: function(GQA_PIECES, case)
    return found
