"""Weights reach the graph's file in blocks, with the bytes that a cast in one go has."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx_ir")

import onnx_ir as ir
import torch

from edgellama.export import weights
from edgellama.export.checkpoint import Checkpoint, open_checkpoint
from edgellama.export.error import ExportError
from edgellama.export.weights import IR_DTYPES, CheckpointTensor, to_numpy

DOWN = "model.layers.0.mlp.down_proj.weight"  # [64, 96]
TABLE = "model.embed_tokens.weight"  # [258, 64]
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Checkpoint:
    return open_checkpoint(make_checkpoint(num_hidden_layers=1))


def written(tensor: ir.TensorProtocol) -> bytes:
    file = io.BytesIO()
    tensor.tofile(file)
    return file.getvalue()


@pytest.mark.parametrize("dtype", list(IR_DTYPES))
@pytest.mark.parametrize(("name", "transposed"), [(DOWN, True), (DOWN, False), (NORM, False)])
@pytest.mark.parametrize(("block", "panel"), [(1, 1), (17 * 4 * 96, 1000), (1 << 23, 1 << 29)])
def test_blocks_and_panels_make_the_whole(
    checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    name: str,
    transposed: bool,
    block: int,
    panel: int,
) -> None:
    monkeypatch.setattr(weights, "_BLOCK_BYTES", block)
    monkeypatch.setattr(weights, "_PANEL_BYTES", panel)
    torch_dtype, ir_dtype = IR_DTYPES[dtype]
    tensor = CheckpointTensor(checkpoint, name, ir_dtype, transposed=transposed)
    whole = checkpoint.read(name).to(torch_dtype)
    expected = to_numpy(whole.t().contiguous() if transposed else whole)
    assert written(tensor) == expected.tobytes()
    np.testing.assert_array_equal(tensor.numpy(), expected)
    assert tuple(tensor.shape) == expected.shape and tensor.dtype == ir_dtype


@pytest.mark.parametrize("transposed", [False, True])
def test_rows_are_the_checkpoints_in_float32(checkpoint: Checkpoint, transposed: bool) -> None:
    tensor = CheckpointTensor(checkpoint, DOWN, ir.DataType.FLOAT16, transposed=transposed)
    rows = tensor.rows(3, 40)
    assert rows.dtype == np.float32 and tensor.checkpoint_name == DOWN
    np.testing.assert_array_equal(rows, checkpoint.read(DOWN)[3:40].numpy())


def test_only_a_block_is_read_at_a_time(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = Checkpoint.read_rows

    def counted(self: Checkpoint, name: str, start: int, stop: int) -> torch.Tensor:
        read.append(stop - start)
        return original(self, name, start, stop)

    monkeypatch.setattr(Checkpoint, "read_rows", counted)
    monkeypatch.setattr(weights, "_BLOCK_BYTES", 10 * 4 * 64)
    written(CheckpointTensor(checkpoint, TABLE, ir.DataType.FLOAT16, transposed=False))
    assert sum(read) == 258 and max(read) == 10


@pytest.mark.parametrize(
    ("dtype", "value", "advice"),
    [("float16", 1e6, "bfloat16 or float32"), ("bfloat16", 3.4e38, "use float32")],
)
def test_a_value_beyond_the_range_is_refused_by_name(
    make_checkpoint: Callable[..., Path], dtype: str, value: float, advice: str
) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_checkpoint(num_hidden_layers=1)
    tensors = load_file(folder / "model.safetensors")
    tensors[DOWN][63, 95] = value
    save_file(tensors, folder / "model.safetensors")
    tensor = CheckpointTensor(open_checkpoint(folder), DOWN, IR_DTYPES[dtype][1], transposed=True)
    with pytest.raises(ExportError, match=f"{DOWN} exceeds the {dtype} range.*{advice}"):
        written(tensor)
