"""The INT4 linear: its layout, its kernel in the interpreter, and its body on ONNX Runtime."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("triton")
pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnx_ir as ir
import onnxruntime as ort
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from interpreter import correct
from kernel_runs import to_torch

from edgellama.optimize.kernels.add_functions import add_functions
from edgellama.optimize.kernels.compile import compile_kernels
from edgellama.optimize.kernels.function_body import DOMAIN
from edgellama.optimize.kernels.int4_function import LINEAR
from edgellama.optimize.kernels.int4_layout import pack_codes, unpack_codes
from edgellama.optimize.kernels.int4_spec import TILES, LinearTile, int4_specs
from edgellama.optimize.kernels.launch import DTYPES
from edgellama.optimize.kernels.linear_launch import multiply
from edgellama.optimize.kernels.reference import NUMPY, wide
from edgellama.optimize.kernels.tiles import SHARED_LIMIT
from edgellama.profiles.kernels import PTX_SINCE

ROUNDING = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
Arrays = npt.NDArray[np.generic]


def draw(
    rows: int, outputs: int, inputs: int, dtype: str, seed: int = 0
) -> tuple[Arrays, npt.NDArray[np.int8], Arrays]:
    """Return x, codes [N, K] and scales, of very different sizes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, inputs)).astype(np.float32).astype(NUMPY[dtype])
    codes = rng.integers(-8, 8, (outputs, inputs)).astype(np.int8)
    scales = 2.0 ** rng.uniform(-9, -3, (outputs, inputs // 128))
    return x, codes, scales.astype(np.float32).astype(NUMPY[dtype])


def reference(x: Arrays, codes: Arrays, scales: Arrays) -> npt.NDArray[np.float64]:
    weight = wide(codes) * np.repeat(wide(scales), 128, axis=1)
    return wide(x) @ weight.T


def bound(x: Arrays, codes: Arrays, scales: Arrays, dtype: str) -> npt.NDArray[np.float64]:
    """Return what one rounding of the sum, and one float32 rounding of each product, may cost."""
    weight = np.abs(wide(codes)) * np.repeat(wide(scales), 128, axis=1)
    sums = np.abs(reference(x, codes, scales)) * ROUNDING[dtype]
    products = np.abs(wide(x)) @ weight.T
    return sums + products * 2.0**-22 + 1e-7


def launched(
    x: Arrays, packed: Arrays, scales: Arrays, dtype: str, tile: LinearTile
) -> npt.NDArray[np.float64]:
    correct()
    own = DTYPES[dtype]
    out = torch.full((len(x), len(packed)), torch.nan, dtype=own)
    multiply(to_torch(x, own), to_torch(packed, torch.int8), to_torch(scales, own), out, tile)
    return out.to(torch.float64).numpy()


def function(x: Arrays, packed: Arrays, scales: Arrays) -> npt.NDArray[np.float64]:
    """Run the body on ONNX Runtime."""
    kind = {np.dtype(np.float16): ir.DataType.FLOAT16}.get(x.dtype, ir.DataType.FLOAT)
    values = [
        ir.val("x", kind, x.shape),
        ir.val("codes", ir.DataType.INT8, packed.shape),
        ir.val("scales", kind, scales.shape),
    ]
    y = ir.val("y", kind, (len(x), len(packed)))
    node = ir.node(LINEAR, values, domain=DOMAIN, outputs=[y])
    graph = ir.Graph(values, [y], nodes=[node], opset_imports={"": 21, DOMAIN: 1}, name="one")
    model = ir.Model(graph, ir_version=10)
    assert add_functions(model) == 1
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {"x": x, "codes": packed, "scales": scales}
    return np.asarray(session.run(["y"], feeds)[0], np.float64)


@given(arrays(np.int8, (3, 256), elements=st.integers(-8, 7)))
@settings(max_examples=50, deadline=None)
def test_what_is_packed_is_unpacked(codes: npt.NDArray[np.int8]) -> None:
    packed = pack_codes(codes)
    assert packed.shape == (3, 128)
    assert (unpack_codes(packed) == codes).all()


def test_the_layout_is_the_documented_one() -> None:
    codes = np.zeros((1, 256), np.int8)
    codes[0, 128 + 5], codes[0, 128 + 64 + 5] = 7, -8
    byte = int(pack_codes(codes).view(np.uint8)[0, 64 + 5])
    assert (byte & 0xF, byte >> 4) == (15, 0)


def test_inputs_that_fill_no_group_are_refused() -> None:
    with pytest.raises(ValueError, match="a linear has 192 inputs; 128 must divide them"):
        pack_codes(np.zeros((2, 192), np.int8))


@pytest.mark.parametrize("tile", TILES, ids=["one row", "16 rows", "64 rows"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 17, 65])
def test_the_kernel(rows: int, dtype: str, tile: LinearTile) -> None:
    x, codes, scales = draw(rows, 40, 640, dtype, seed=rows)
    found = launched(x, pack_codes(codes), scales, dtype, tile)
    error = np.abs(found - reference(x, codes, scales))
    assert (error <= bound(x, codes, scales, dtype)).all()


def test_any_sizes() -> None:
    @settings(max_examples=25, deadline=None)
    @given(
        st.integers(1, 20),
        st.integers(1, 70),
        st.integers(1, 9),
        st.sampled_from(TILES),
        st.integers(0, 2**31),
    )
    def check(rows: int, outputs: int, groups: int, tile: LinearTile, seed: int) -> None:
        x, codes, scales = draw(rows, outputs, 128 * groups, "fp16", seed)
        found = launched(x, pack_codes(codes), scales, "fp16", tile)
        error = np.abs(found - reference(x, codes, scales))
        assert (error <= bound(x, codes, scales, "fp16")).all()

    check()


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_the_body_says_what_the_kernel_says(dtype: str) -> None:
    x, codes, scales = draw(5, 24, 384, dtype)
    found = function(x, pack_codes(codes), scales)
    error = np.abs(found - reference(x, codes, scales))
    assert (error <= bound(x, codes, scales, dtype)).all()


@pytest.mark.parametrize(
    "fault",
    [
        lambda packed: (packed.view(np.uint8) >> 4 | packed.view(np.uint8) << 4).view(np.int8),
        lambda packed: np.ascontiguousarray(np.roll(packed, 64, axis=1)),
        lambda packed: (packed.view(np.uint8) ^ 0x88).view(np.int8),
    ],
    ids=["nibbles swapped", "groups shifted", "signed nibbles"],
)
@pytest.mark.parametrize("tile", TILES[:2], ids=["one row", "16 rows"])
def test_another_layout_is_found(fault: object, tile: LinearTile) -> None:
    x, codes, scales = draw(2, 16, 256, "fp16")
    found = launched(x, fault(pack_codes(codes)), scales, "fp16", tile)  # type: ignore[operator]
    error = np.abs(found - reference(x, codes, scales))
    assert (error > bound(x, codes, scales, "fp16")).mean() > 0.9


def test_sizes_that_do_not_fit_are_refused() -> None:
    x, codes, scales = draw(2, 16, 256, "fp16")
    with pytest.raises(ValueError, match=r"scales is \[16, 1\]; .* it must be \[16, 2\]"):
        launched(x, pack_codes(codes), scales[:, :1].copy(), "fp16", TILES[0])


@pytest.mark.slow
@pytest.mark.parametrize("sm", PTX_SINCE)
def test_it_is_compiled_without_a_spill(sm: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    specs = [spec for dtype in ("fp16", "bf16") for spec in int4_specs(dtype)]
    cache = tmp_path_factory.mktemp("kernels")
    for kernel, code in compile_kernels(specs, sm, code="ptx", ptx_version=None, cache=cache):
        assert kernel.spill_bytes == 0 and kernel.shared_bytes <= SHARED_LIMIT, kernel.file
        if kernel.kernel == "int4_row":
            assert b".v2.b32" in code, "two words of codes at a time"
