"""AutoAWQ checkpoints: the packing by its definition, and what is exact, inexact or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from edgellama.export.awq_checkpoint import unpack_outputs
from edgellama.export.checkpoint import open_checkpoint
from edgellama.export.error import ExportError
from edgellama.export.packed import PackedTensors, group_count
from edgellama.export.reference import reference_logits
from edgellama.export.to_onnx import export_portable
from edgellama.optimize.portable_session import PortableSession

GROUP = 32
Q_PROJ = "model.layers.0.self_attn.q_proj"
DOWN_PROJ = "model.layers.1.mlp.down_proj"
# The output, of eight, whose code each nibble holds, from the lowest bits up.
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Codes = npt.NDArray[np.int64]


def pack(codes: Codes) -> torch.Tensor:
    """Pack [rows, N] codes 0..15 as AutoAWQ does, one integer at a time."""
    rows, outputs = codes.shape
    packed = np.zeros((rows, outputs // 8), np.uint32)
    for row in range(rows):
        for column in range(outputs // 8):
            word = 0
            for place, output in enumerate(ORDER):
                word |= int(codes[row, column * 8 + output]) << (4 * place)
            packed[row, column] = word
    return torch.from_numpy(packed.view(np.int32))


def quantize(folder: Path, zeros: Callable[[str], int | None], **settings: Any) -> dict[str, Any]:
    """Rewrite a checkpoint's decoder linears as AutoAWQ would; returns the weights they stand for.

    `zeros(module)` is the zero point of all groups, or None for drawn ones.
    """
    random = np.random.default_rng(5)
    tensors = load_file(folder / "model.safetensors")
    weights: dict[str, Any] = {}
    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        module = name.removesuffix(".weight")
        outputs, inputs = tensors.pop(name).shape
        codes = random.integers(0, 16, (inputs, outputs))
        zero = zeros(module)
        points = random.integers(0, 16, (inputs // GROUP, outputs))
        if zero is not None:
            points[:] = zero
        scales = random.uniform(0.01, 0.05, points.shape).astype(np.float16)
        tensors[f"{module}.qweight"] = pack(codes)
        tensors[f"{module}.qzeros"] = pack(points)
        tensors[f"{module}.scales"] = torch.from_numpy(scales)
        wide = [np.repeat(part, GROUP, 0) for part in (points, scales.astype(np.float32))]
        weights[name] = ((codes - wide[0]) * wide[1]).T.astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    declare(folder, **settings)
    return weights


def declare(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    said = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": GROUP,
        "zero_point": True,
        "modules_to_not_convert": None,
        **settings,
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": said}))


@pytest.fixture
def folder(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


def test_a_word_is_unpacked_by_hand() -> None:
    # Nibbles 1, 2, 3, ... from the lowest bits are the outputs 0, 2, 4, 6, 1, 3, 5, 7.
    word = np.array([[0x87654321]], np.uint32).view(np.int32)
    assert unpack_outputs(word).tolist() == [[1, 5, 2, 6, 3, 7, 4, 8]]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_packing_round_trips(rows: int, words: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 16, (rows, words * 8))
    assert np.array_equal(unpack_outputs(pack(codes).numpy()), codes)


def test_symmetric_linears_are_imported_exactly(folder: Path) -> None:
    weights = quantize(folder, lambda _: 8)
    checkpoint = open_checkpoint(folder, exact=True)
    said = checkpoint.quantization
    assert said is not None and said.symmetric and said.kv is None
    assert (said.tool, said.precision, said.block_size) == ("awq", "int4_awq", GROUP)
    assert set(checkpoint.stored_linears) == set(weights) and not checkpoint.inexact
    for name, weight in weights.items():
        assert np.array_equal(checkpoint.read(name).numpy(), weight)
        linear = checkpoint.stored(name)
        assert linear.codes.dtype == np.int8
        assert (linear.codes.min(), linear.codes.max()) == (-8, 7)
        assert linear.scales.shape == (weight.shape[0], weight.shape[1] // GROUP)
        assert np.array_equal(linear.dequantize(), weight)


def test_zero_points_are_read_as_floats_and_named(folder: Path) -> None:
    weights = quantize(folder, lambda module: None if module == DOWN_PROJ else 8)
    checkpoint = open_checkpoint(folder)
    said = checkpoint.quantization
    assert said is not None and not said.symmetric
    assert checkpoint.inexact == (f"{DOWN_PROJ}.weight",)
    assert f"{DOWN_PROJ}.weight" not in checkpoint.stored_linears
    for name, weight in weights.items():
        assert np.array_equal(checkpoint.read(name).numpy(), weight)
    with pytest.raises(ExportError, match="not stored as symmetric codes"):
        checkpoint.stored(f"{DOWN_PROJ}.weight")
    with pytest.raises(ExportError, match=r"1 linears, .*layers\.1\.mlp\.down_proj\.weight first"):
        open_checkpoint(folder, exact=True)


def test_rows_are_the_rows_of_the_whole(folder: Path) -> None:
    quantize(folder, lambda _: None)
    checkpoint = open_checkpoint(folder)
    whole = checkpoint.read(f"{Q_PROJ}.weight")
    for start, stop in ((0, 1), (3, 21), (8, 16), (63, 64), (9, 9)):
        assert torch.equal(checkpoint.read_rows(f"{Q_PROJ}.weight", start, stop), whole[start:stop])


def test_the_reference_is_the_dequantised_model(folder: Path) -> None:
    weights = quantize(folder, lambda _: None)
    ids = [1, 7, 200, 31, 4]
    config = transformers.LlamaConfig.from_pretrained(folder)
    del config.quantization_config
    model = transformers.LlamaForCausalLM(config).eval()
    stored = load_file(folder / "model.safetensors")
    plain = {name: tensor for name, tensor in stored.items() if "_proj." not in name}
    read = {name: torch.from_numpy(weight) for name, weight in weights.items()}
    assert model.load_state_dict({**plain, **read}, strict=False).unexpected_keys == []
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    ((logits,),) = reference_logits(open_checkpoint(folder), [ids])
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_its_export_is_the_dequantised_model(folder: Path, tmp_path: Path) -> None:
    quantize(folder, lambda module: None if module == DOWN_PROJ else 8)
    export_portable(folder, tmp_path / "out")
    checkpoint = open_checkpoint(folder)
    session = PortableSession(tmp_path / "out" / "model.onnx", checkpoint.model)
    ((wanted,),) = reference_logits(checkpoint, [[1, 7, 200, 31, 4]])
    logits = session.logits([1, 7, 200, 31, 4])
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-4)


def test_a_row_as_one_group_becomes_blocks(folder: Path) -> None:
    quantize(folder, lambda _: 8, group_size=-1)
    with pytest.raises(ExportError, match=r"qzeros has shape \[2, 8\]; .* makes it \[1, 8\]"):
        open_checkpoint(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [n for n in tensors if n.endswith((".qzeros", ".scales"))]:
        tensors[name] = tensors[name][:1].contiguous()
    save_file(tensors, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder, exact=True)
    assert checkpoint.quantization is not None
    # 32 is the largest block that divides both 64 and 96 inputs.
    assert checkpoint.quantization.block_size == 32
    linear = checkpoint.stored(f"{DOWN_PROJ}.weight")
    assert linear.scales.shape == (64, 3)
    assert np.array_equal(linear.scales[:, 0], tensors[f"{DOWN_PROJ}.scales"][0].float().numpy())
    assert np.array_equal(linear.scales[:, 0], linear.scales[:, 2])


def test_a_group_of_scale_0_is_zeros_of_scale_1(folder: Path) -> None:
    quantize(folder, lambda _: 8)
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{Q_PROJ}.scales"][1, 5] = 0
    save_file(tensors, folder / "model.safetensors")
    linear = open_checkpoint(folder).stored(f"{Q_PROJ}.weight")
    assert linear.scales[5, 1] == 1 and not linear.codes[5, GROUP:].any()
    assert linear.codes[5, :GROUP].any() and linear.codes[4, GROUP:].any()


def test_a_linear_left_as_float_stays_one(folder: Path) -> None:
    before = load_file(folder / "model.safetensors")[f"{Q_PROJ}.weight"]
    weights = quantize(folder, lambda _: 8, modules_to_not_convert=["q_proj"])
    with pytest.raises(ExportError, match="q_proj is quantised, but modules_to_not_convert"):
        open_checkpoint(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [n for n in tensors if ".q_proj.q" in n or ".q_proj.scales" in n]:
        del tensors[name]
        tensors[name.rsplit(".", 1)[0] + ".weight"] = before.clone()
    save_file(tensors, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder, exact=True)
    assert torch.equal(checkpoint.read(f"{Q_PROJ}.weight"), before)
    assert set(checkpoint.stored_linears) == {n for n in weights if ".q_proj." not in n}


def test_the_older_file_of_settings_is_read(folder: Path) -> None:
    weights = quantize(folder, lambda _: 8)
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    del raw["quantization_config"]
    path.write_text(json.dumps(raw))
    old = {"zero_point": True, "q_group_size": GROUP, "w_bit": 4, "version": "GEMM"}
    (folder / "quant_config.json").write_text(json.dumps(old))
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.stored_linears) == set(weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": "gemv"}, "version is 'gemv'; supported: 'gemm'"),
        ({"version": "marlin"}, "version is 'marlin'"),
        ({"version": "exllama"}, "version is 'exllama'"),
        ({"backend": "llm-awq"}, "version is 'llm-awq'"),
        ({"bits": 8}, "bits is 8; supported: 4"),
        ({"group_size": 24}, "group_size is 24; supported: -1, 32, 64, 128"),
        ({"group_size": "32"}, "group_size is '32'; a whole number"),
        ({"group_size": 64}, r"qzeros has shape \[2, 8\]; .* makes it \[1, 8\]"),
    ],
    ids=str,
)
def test_settings_that_are_not_supported_are_named(
    folder: Path, settings: dict[str, Any], message: str
) -> None:
    quantize(folder, lambda _: 8, **settings)
    with pytest.raises(ExportError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "replacement", "message"),
    [
        (f"{Q_PROJ}.qweight", None, "q_proj.weight is missing"),
        (f"{Q_PROJ}.qzeros", None, "q_proj.qzeros is missing"),
        (f"{Q_PROJ}.scales", None, "q_proj.scales is missing"),
        (
            f"{Q_PROJ}.qweight",
            torch.zeros(64, 4, dtype=torch.int32),
            r"has shape \[64, 4\]",
        ),
        (f"{Q_PROJ}.qweight", torch.zeros(64, 8, dtype=torch.int64), "qweight has dtype I64"),
        (f"{Q_PROJ}.scales", torch.ones(2, 32), r"scales has shape \[2, 32\]"),
        (f"{Q_PROJ}.weight", torch.ones(64, 64), "q_proj.weight is stored twice"),
        (f"{Q_PROJ}.bias", torch.ones(64), "q_proj.bias is not zero"),
        (f"{Q_PROJ}.g_idx", torch.zeros(64, dtype=torch.int32), "q_proj.g_idx does not belong"),
        ("model.norm.weight", None, "model.norm.weight is missing"),
    ],
)
def test_a_tensor_that_is_missing_or_wrong_is_named(
    folder: Path, name: str, replacement: torch.Tensor | None, message: str
) -> None:
    quantize(folder, lambda _: 8)
    tensors = load_file(folder / "model.safetensors")
    if replacement is None:
        del tensors[name]
    else:
        tensors[name] = replacement
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ExportError, match=message):
        open_checkpoint(folder)


def test_inputs_that_groups_do_not_divide_are_named(folder: Path) -> None:
    with pytest.raises(ExportError, match="down_proj has 96 inputs, which groups of 64 do not"):
        group_count(PackedTensors(folder, {}), DOWN_PROJ, 96, 64)


def test_a_bias_of_zeros_is_accepted(folder: Path) -> None:
    quantize(folder, lambda _: 8)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, f"{Q_PROJ}.bias": torch.zeros(64)}, folder / "model.safetensors")
    assert f"{Q_PROJ}.weight" in open_checkpoint(folder).stored_linears


def test_a_scale_that_is_not_a_number_is_refused(folder: Path) -> None:
    quantize(folder, lambda _: 8)
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{Q_PROJ}.scales"][0, 3] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    for read in (checkpoint.read, checkpoint.stored):
        with pytest.raises(ExportError, match=r"q_proj\.scales of .* holds NaN"):
            read(f"{Q_PROJ}.weight")


def test_the_fingerprint_follows_files_and_settings(folder: Path) -> None:
    quantize(folder, lambda _: 8)
    before = open_checkpoint(folder).fingerprint()
    assert open_checkpoint(folder).fingerprint() == before
    declare(folder, zero_point=False)
    after = open_checkpoint(folder).fingerprint()
    assert after != before
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, f"{Q_PROJ}.bias": torch.zeros(64)}, folder / "model.safetensors")
    assert open_checkpoint(folder).fingerprint() != after


def test_settings_without_a_quantised_linear_are_refused(folder: Path) -> None:
    declare(folder)
    with pytest.raises(ExportError, match=r"is set, but no linear .* is quantised"):
        open_checkpoint(folder)
