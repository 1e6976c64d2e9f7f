"""A tensor written in parts has the bytes of the same tensor in memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")

import ml_dtypes
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from edgellama.export.streamed import StreamedTensor

TYPES = {
    ir.DataType.FLOAT: np.float32,
    ir.DataType.FLOAT16: np.float16,
    ir.DataType.BFLOAT16: ml_dtypes.bfloat16,
    ir.DataType.INT8: np.int8,
    ir.DataType.UINT8: np.uint8,
    ir.DataType.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
}


def streamed(array: np.ndarray, dtype: ir.DataType, step: int) -> StreamedTensor:
    def parts() -> Iterator[np.ndarray]:
        for start in range(0, len(array), step):
            yield array[start : start + step]

    return StreamedTensor(parts, dtype, array.shape, "w")


def written(tensor: ir.TensorProtocol) -> bytes:
    file = io.BytesIO()
    tensor.tofile(file)
    return file.getvalue()


@given(st.sampled_from(list(TYPES)), st.integers(1, 9), st.integers(1, 9), st.integers(1, 10))
def test_the_bytes_are_those_of_the_tensor_in_memory(
    dtype: ir.DataType, rows: int, columns: int, step: int
) -> None:
    array = np.arange(rows * columns).reshape(columns, rows).T.astype(TYPES[dtype])
    tensor = streamed(array, dtype, step)
    whole = ir.Tensor(array, dtype=dtype, name="w")
    assert written(tensor) == tensor.tobytes() == whole.tobytes()
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert tensor.nbytes == whole.nbytes and tensor.numpy().dtype == array.dtype
    assert repr(tensor) == f"StreamedTensor<{dtype},[{rows},{columns}]>(name='w')"


@given(st.integers(1, 9), st.integers(1, 9))
def test_int4_parts_are_packed_with_the_low_nibble_first(rows: int, pairs: int) -> None:
    codes = np.random.default_rng(rows).integers(-8, 8, (rows, 2 * pairs)).astype(np.int8)
    low, high = codes[:, 0::2].view(np.uint8), codes[:, 1::2].view(np.uint8)

    def parts() -> Iterator[np.ndarray]:
        for index in range(rows):
            yield (low[index] & 15) | (high[index] << 4).astype(np.uint8)

    tensor = StreamedTensor(parts, ir.DataType.INT4, codes.shape, "codes")
    whole = ir.Tensor(codes.astype(ml_dtypes.int4), dtype=ir.DataType.INT4, name="codes")
    assert written(tensor) == whole.tobytes()
    np.testing.assert_array_equal(tensor.numpy().astype(np.int8), codes)


def test_a_model_with_it_is_saved_and_loaded(tmp_path: Path) -> None:
    array = np.arange(4096, dtype=np.float32).reshape(64, 64)
    value = ir.Value(
        name="w",
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape(array.shape),
        const_value=streamed(array, ir.DataType.FLOAT, 5),
    )
    graph = ir.Graph([], [], nodes=[], initializers=[value], opset_imports={"": 23}, name="g")
    for target in ({"external_data": "m.data"}, {}):
        ir.save(ir.Model(graph, ir_version=10), tmp_path / "m.onnx", **target)
        loaded = ir.load(tmp_path / "m.onnx").graph.initializers["w"].const_value
        assert loaded is not None
        np.testing.assert_array_equal(loaded.numpy(), array)
        assert (tmp_path / "m.data").exists()


@pytest.mark.parametrize(
    ("part", "dtype", "message"),
    [
        (np.zeros(3, np.float32), ir.DataType.FLOAT, "have 12 bytes; it has 16"),
        (np.zeros(4, np.float64), ir.DataType.FLOAT, "is float64; float32"),
        (np.zeros(4, ml_dtypes.int4), ir.DataType.INT4, "is int4; uint8"),
    ],
)
def test_parts_that_do_not_make_the_tensor_are_refused(
    part: np.ndarray, dtype: ir.DataType, message: str
) -> None:
    def parts() -> list[np.ndarray[Any, Any]]:
        return [part]

    with pytest.raises(ValueError, match=message):
        written(StreamedTensor(parts, dtype, [4], "w"))
