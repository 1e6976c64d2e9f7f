"""Which quantised checkpoints are read, and that all others are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from edgellama.export.checkpoint import open_checkpoint
from edgellama.export.error import ExportError
from edgellama.export.quantized_checkpoint import read_declaration
from edgellama.export.stored import StoredLinear
from edgellama.profiles.model import UnsupportedModelError


@pytest.fixture
def folder(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


def declare(folder: Path, settings: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))


@pytest.mark.parametrize(
    "method",
    [
        "bitsandbytes",
        "fp8",
        "fbgemm_fp8",
        "compressed-tensors",
        "aqlm",
        "hqq",
        "mxfp4",
        "eetq",
        "quanto",
        "torchao",
        "auto-round",
        "vptq",
        "bitnet",
    ],
)
def test_another_tool_is_refused_by_name(folder: Path, method: str) -> None:
    declare(folder, {"quant_method": method, "bits": 4})
    message = f"quantization_config: quant_method is '{method}'; supported: modelopt, awq, gptq"
    with pytest.raises(UnsupportedModelError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize("settings", [[1], "awq", {"bits": 4}, {"quant_method": ["awq"]}])
def test_settings_of_no_tool_are_refused(folder: Path, settings: object) -> None:
    declare(folder, settings)
    with pytest.raises(UnsupportedModelError, match="quant_method is"):
        open_checkpoint(folder)


def test_a_plain_checkpoint_has_no_codes(folder: Path) -> None:
    checkpoint = open_checkpoint(folder, exact=True)
    assert read_declaration(folder) is None
    assert (checkpoint.quantization, checkpoint.stored_linears, checkpoint.inexact) == (
        None,
        (),
        (),
    )
    with pytest.raises(ExportError, match=r"norm\.weight is not stored as symmetric codes"):
        checkpoint.stored("model.norm.weight")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("hf_quant_config.json", "{", "not JSON"),
        ("hf_quant_config.json", "[]", "holds a list"),
        ("hf_quant_config.json", '{"producer": {"name": "modelopt"}}', "no object `quantization`"),
        ("quantize_config.json", "\x00", "not JSON"),
        ("quantize_config.json", '{"quant_method": "hqq"}', "quant_method is 'hqq'"),
    ],
)
def test_a_file_of_settings_that_is_damaged_is_refused(
    folder: Path, name: str, content: str, message: str
) -> None:
    (folder / name).write_text(content)
    with pytest.raises((ExportError, UnsupportedModelError), match=message):
        open_checkpoint(folder)


def test_two_tools_are_refused(folder: Path) -> None:
    declare(folder, {"quant_method": "awq", "bits": 4, "group_size": 32})
    (folder / "hf_quant_config.json").write_text(
        json.dumps({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}})
    )
    with pytest.raises(ExportError, match=r"hf_quant_config\.json .* 'awq'"):
        open_checkpoint(folder)


def test_rows_of_a_linear_are_its_own() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(-8, 8, (6, 64)).astype(np.int8)
    scales = random.uniform(0.1, 1, (6, 2)).astype(np.float32)
    pre_scale = random.uniform(0.5, 2, 64).astype(np.float32)
    linear = StoredLinear("int4_awq", codes, scales, 32, pre_scale)
    by_hand = np.array(
        [
            [np.float32(codes[n, k]) * scales[n, k // 32] * pre_scale[k] for k in range(64)]
            for n in range(6)
        ]
    )
    assert np.array_equal(linear.dequantize(), by_hand)
    assert np.array_equal(linear.rows(2, 5).dequantize(), by_hand[2:5])
    tensor_scale = np.full((1, 1), 0.25, np.float32)
    whole = StoredLinear("fp8", codes.astype(np.float32), tensor_scale, 0)
    assert np.array_equal(whole.rows(1, 3).dequantize(), codes[1:3] * np.float32(0.25))
