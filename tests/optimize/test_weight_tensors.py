"""Weights written slice by slice are those written whole, whatever their shape and order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

import onnx_ir as ir

from edgellama.optimize import float_rows
from edgellama.optimize.passes.half_storage import HalfTensor
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.quantize import pack_blob, quantize_rows
from edgellama.optimize.quantized_weight import (
    JoinedWeight,
    Layout,
    QuantizedWeight,
    RoundedWeight,
    ScaledWeight,
)
from edgellama.optimize.read_weight import ReadWeight
from edgellama.optimize.weight_tensors import (
    BlobTensor,
    CodesTensor,
    ScalesTensor,
    as_type,
    forget_scales,
    whole_scales,
)

BLOCK = 32
TYPES = {4: ir.DataType.INT4, 8: ir.DataType.INT8}


@pytest.fixture(scope="module", autouse=True)
def small_slices() -> Iterator[None]:
    """Slices of a few rows, so that small weights have many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(float_rows, "ELEMENTS_AT_ONCE", 200)
        yield


def rounded(weight: np.ndarray, bits: int, *, transposed: bool) -> RoundedWeight:
    tensor = ir.tensor(np.ascontiguousarray(weight.T) if transposed else weight)
    return RoundedWeight(tensor, Layout(*weight.shape, TYPES[bits], BLOCK), transposed)


def saved(tensor: ir.TensorProtocol, path: Path) -> ir.ExternalTensor:
    """Write a tensor to its own file and map it."""
    path.write_bytes(tensor.tobytes())
    size = path.stat().st_size
    return ir.ExternalTensor(
        path.name, 0, size, tensor.dtype, shape=tensor.shape, name="saved", base_dir=path.parent
    )


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 40), st.integers(1, 90)),
    st.sampled_from([4, 8]),
    st.booleans(),
)
def test_slices_make_the_whole(
    seed: int, shape: tuple[int, int], bits: int, transposed: bool
) -> None:
    weight = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    expected = quantize_rows(weight, bits, BLOCK)
    codes = expected.codes[:, : shape[1]]
    source = rounded(weight, bits, transposed=transposed)
    codes_tensor = CodesTensor(source, "codes", transposed=transposed)
    scales_tensor = ScalesTensor(source, "scales", ir.DataType.FLOAT, transposed=transposed)
    ours, scales = codes_tensor.numpy().astype(np.int8), scales_tensor.numpy()
    np.testing.assert_array_equal(ours.T if transposed else ours, codes)
    np.testing.assert_array_equal(scales.T if transposed else scales, expected.scales)
    blob = BlobTensor(source, "blob").numpy()
    np.testing.assert_array_equal(blob, pack_blob(expected.codes, bits, BLOCK))
    with TemporaryDirectory() as folder:
        mapped = saved(codes_tensor, Path(folder) / "codes")
        read = ReadWeight(mapped, scales_tensor, source.layout, transposed)
        parts = list(read.slices())
        np.testing.assert_array_equal(np.concatenate([part.codes for part in parts]), codes)
        np.testing.assert_array_equal(whole_scales(read), expected.scales)
        del parts, read, mapped


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 20), min_size=1, max_size=3))
def test_joined_weights_are_one_behind_the_other(seed: int, outputs: list[int]) -> None:
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((n, 70)).astype(np.float32) for n in outputs]
    joined = JoinedWeight([rounded(weight, 4, transposed=True) for weight in weights])
    expected = quantize_rows(np.concatenate(weights), 4, BLOCK)
    blob = BlobTensor(joined, "blob").numpy()
    np.testing.assert_array_equal(blob, pack_blob(expected.codes, 4, BLOCK))
    np.testing.assert_array_equal(whole_scales(joined), expected.scales)


def test_scaled_outputs_keep_their_codes() -> None:
    weight = np.random.default_rng(1).standard_normal((10, 64)).astype(np.float32)
    factors = np.linspace(0.5, 2, 10).astype(np.float32)
    source = rounded(weight, 4, transposed=True)
    scaled = ScaledWeight(source, factors)
    expected = quantize_rows(weight, 4, BLOCK)
    np.testing.assert_array_equal(
        BlobTensor(scaled, "blob").numpy(), pack_blob(expected.codes, 4, BLOCK)
    )
    np.testing.assert_allclose(whole_scales(scaled), expected.scales * factors[:, None])


class Rows:
    """A stored weight [N, K] that counts what is read of it at once."""

    name = "weight"
    dtype = ir.DataType.FLOAT

    def __init__(self, weight: np.ndarray) -> None:
        self.weight, self.most, self.reads = weight, 0, 0
        self.shape = ir.Shape(weight.T.shape)

    def rows(self, start: int, stop: int) -> np.ndarray:
        self.most = max(self.most, stop - start)
        self.reads += 1
        return self.weight[start:stop]

    def numpy(self) -> np.ndarray:
        raise AssertionError("the whole weight was read")


def test_a_stored_weight_is_read_once_and_in_slices() -> None:
    tensor = Rows(np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32))
    source: QuantizedWeight = RoundedWeight(
        tensor, Layout(40, 64, ir.DataType.INT4, BLOCK), transposed=True
    )
    codes = CodesTensor(source, "codes", transposed=True)
    scales = ScalesTensor(source, "scales", ir.DataType.FLOAT, transposed=True)
    codes.tobytes()
    scales.numpy()
    assert tensor.most == 2 and tensor.reads == 20, "scales are kept from the codes' pass"
    forget_scales()
    ScalesTensor(source, "scales", ir.DataType.FLOAT, transposed=True).numpy()
    assert tensor.reads == 40


def test_halves_are_narrowed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellama.optimize.passes.half_storage._ELEMENTS_AT_ONCE", 100)
    weight = np.random.default_rng(1).standard_normal((9, 33)).astype(np.float32)
    for dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        half = HalfTensor(ir.tensor(weight), dtype, "w")
        np.testing.assert_array_equal(half.numpy(), weight.astype(dtype.numpy()))


def test_a_scale_beyond_the_graphs_type_is_refused() -> None:
    for value in (1e6, 1e-12):
        with pytest.raises(BuildError, match=r"a scale lies outside .*--dtype float32"):
            as_type(np.float32(value), ir.DataType.FLOAT16, "a scale")
    assert as_type(np.float32(0.5), ir.DataType.FLOAT16, "a scale") == 0.5
