"""GPTQ checkpoints: the packing by its definition, and what is exact, inexact or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from edgellama.export.checkpoint import open_checkpoint
from edgellama.export.error import ExportError
from edgellama.export.packed import unpack_nibbles

GROUP = 32
Q_PROJ = "model.layers.0.self_attn.q_proj"
DOWN_PROJ = "model.layers.1.mlp.down_proj"
Codes = npt.NDArray[np.int64]


def pack_last(codes: Codes) -> Codes:
    """Pack codes 0..15 along the last axis, eight a word, the first in the lowest bits."""
    words = np.zeros((*codes.shape[:-1], codes.shape[-1] // 8), np.int64)
    for index in np.ndindex(words.shape):
        for place in range(8):
            words[index] |= codes[(*index[:-1], index[-1] * 8 + place)] << (4 * place)
    return words


def to_int32(words: Codes) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(words).astype(np.uint32).view(np.int32))


def quantize(
    folder: Path,
    zero: int | None = 8,
    order: Callable[[int], Codes] = lambda inputs: np.arange(inputs) // GROUP,
    offset: int = 1,
    low: int = 1,
    **settings: Any,
) -> dict[str, Any]:
    """Rewrite a checkpoint's decoder linears as GPTQ; returns the weights they stand for.

    `zero` is the zero point of all groups, or None for drawn ones from `low` up; `offset` is what
    the stored ones lack.
    """
    random = np.random.default_rng(5)
    tensors = load_file(folder / "model.safetensors")
    weights: dict[str, Any] = {}
    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        module = name.removesuffix(".weight")
        outputs, inputs = tensors.pop(name).shape
        codes = random.integers(0, 16, (outputs, inputs))
        groups = inputs // GROUP
        zeros = random.integers(low, 16, (groups, outputs))
        if zero is not None:
            zeros[:] = zero
        scales = random.uniform(0.01, 0.05, zeros.shape).astype(np.float16)
        group_of = order(inputs)
        tensors[f"{module}.qweight"] = to_int32(pack_last(codes).T)
        tensors[f"{module}.qzeros"] = to_int32(pack_last((zeros - offset) & 15))
        tensors[f"{module}.scales"] = torch.from_numpy(scales)
        tensors[f"{module}.g_idx"] = torch.from_numpy(group_of.astype(np.int32))
        wide = scales.astype(np.float32)[group_of].T
        weights[name] = ((codes - zeros[group_of].T) * wide).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    path = folder / "config.json"
    said = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": GROUP,
        "sym": True,
        "desc_act": False,
        "checkpoint_format": "gptq",
        **settings,
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": said}))
    return weights


def shuffled(inputs: int) -> Codes:
    return np.random.default_rng(inputs).permutation(np.arange(inputs) // GROUP)


@pytest.fixture
def folder(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


def test_words_are_unpacked_by_hand() -> None:
    words = np.array([[0x76543210], [0xFEDCBA98]], np.uint32).view(np.int32)
    assert unpack_nibbles(words).tolist() == [list(range(8)), list(range(8, 16))]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_packing_round_trips(rows: int, words: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 16, (rows, words * 8))
    assert np.array_equal(unpack_nibbles(to_int32(pack_last(codes)).numpy()), codes)


@pytest.mark.parametrize(
    ("offset", "settings"),
    [
        (1, {}),
        (1, {"checkpoint_format": None, "format": "gptq"}),
        (0, {"checkpoint_format": "gptq_v2"}),
    ],
)
def test_symmetric_linears_are_imported_exactly(
    folder: Path, offset: int, settings: dict[str, Any]
) -> None:
    weights = quantize(folder, offset=offset, **settings)
    checkpoint = open_checkpoint(folder, exact=True)
    said = checkpoint.quantization
    assert said is not None and said.symmetric and said.kv is None
    assert (said.tool, said.precision, said.block_size) == ("gptq", "int4_awq", GROUP)
    assert set(checkpoint.stored_linears) == set(weights) and not checkpoint.inexact
    for name, weight in weights.items():
        assert np.array_equal(checkpoint.read(name).numpy(), weight)
        linear = checkpoint.stored(name)
        assert (linear.codes.min(), linear.codes.max()) == (-8, 7)
        assert np.array_equal(linear.dequantize(), weight)


def test_the_zero_point_follows_the_format(folder: Path) -> None:
    """The zeros of a v1 file are one more than stored; read as v2 they are not 8."""
    quantize(folder, checkpoint_format="gptq_v2")
    checkpoint = open_checkpoint(folder)
    assert not checkpoint.stored_linears and len(checkpoint.inexact) == 14


@pytest.mark.parametrize(("offset", "low", "layout"), [(1, 1, "gptq"), (0, 0, "gptq_v2")])
def test_zero_points_are_read_as_floats(folder: Path, offset: int, low: int, layout: str) -> None:
    weights = quantize(folder, zero=None, offset=offset, low=low, checkpoint_format=layout)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.quantization is not None and not checkpoint.quantization.symmetric
    assert set(checkpoint.inexact) == set(weights) and not checkpoint.stored_linears
    for name, weight in weights.items():
        assert np.array_equal(checkpoint.read(name).numpy(), weight)
    with pytest.raises(ExportError, match=r"14 linears, .* leave --exact out"):
        open_checkpoint(folder, exact=True)


def test_groups_in_activation_order_are_read_as_floats(folder: Path) -> None:
    weights = quantize(folder, order=shuffled, desc_act=True)
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.inexact) == set(weights)
    for name, weight in weights.items():
        assert np.array_equal(checkpoint.read(name).numpy(), weight)
        assert np.array_equal(checkpoint.read_rows(name, 3, 9).numpy(), weight[3:9])
    with pytest.raises(ExportError, match=r"activation order \(desc_act\)"):
        open_checkpoint(folder, exact=True)


def test_activation_order_of_static_groups_is_exact(folder: Path) -> None:
    """desc_act changes nothing where the groups stayed consecutive; the indices decide."""
    weights = quantize(folder, desc_act=True, static_groups=True)
    assert set(open_checkpoint(folder, exact=True).stored_linears) == set(weights)


@pytest.mark.parametrize("reordered", [False, True])
def test_group_indices_may_be_left_out_without_activation_order(
    folder: Path, reordered: bool
) -> None:
    weights = quantize(folder, desc_act=reordered)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(".g_idx")}
    save_file(kept, folder / "model.safetensors")
    if reordered:
        with pytest.raises(ExportError, match=r"q_proj\.g_idx is missing"):
            open_checkpoint(folder)
        return
    checkpoint = open_checkpoint(folder, exact=True)
    for name, weight in weights.items():
        assert np.array_equal(checkpoint.read(name).numpy(), weight)


def test_zero_0_of_the_first_format_is_refused(folder: Path) -> None:
    quantize(folder, zero=0)
    with pytest.raises(ExportError, match=r"qzeros stores 15, .* format gptq_v2"):
        open_checkpoint(folder)


@pytest.mark.parametrize("group", [-1, 2])
def test_a_group_that_does_not_exist_is_refused(folder: Path, group: int) -> None:
    quantize(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{Q_PROJ}.g_idx"][9] = group
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ExportError, match=r"g_idx names group .*; there are 2"):
        open_checkpoint(folder)


def test_rows_are_the_rows_of_the_whole(folder: Path) -> None:
    quantize(folder)
    checkpoint = open_checkpoint(folder)
    whole = checkpoint.read(f"{DOWN_PROJ}.weight")
    for start, stop in ((0, 1), (3, 21), (63, 64), (9, 9)):
        rows = checkpoint.read_rows(f"{DOWN_PROJ}.weight", start, stop)
        assert torch.equal(rows, whole[start:stop])


def test_the_older_file_of_settings_is_read(folder: Path) -> None:
    weights = quantize(folder)
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    said = raw.pop("quantization_config")
    del said["quant_method"]
    path.write_text(json.dumps(raw))
    (folder / "quantize_config.json").write_text(json.dumps(said))
    assert set(open_checkpoint(folder, exact=True).stored_linears) == set(weights)


def test_a_quantised_head_is_read_too(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint(vocab_size=264, tie_word_embeddings=False)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head_proj.weight"] = tensors.pop("lm_head.weight")  # so that it is quantised too
    save_file(tensors, folder / "model.safetensors")
    weights = quantize(folder, lm_head=True)
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace("lm_head_proj", "lm_head"): t for name, t in tensors.items()}
    save_file(renamed, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder, exact=True)
    assert "lm_head.weight" in checkpoint.stored_linears
    wanted = weights["lm_head_proj.weight"]
    assert np.array_equal(checkpoint.read("lm_head.weight").numpy(), wanted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 2}, "bits is 2; supported: 4"),
        ({"bits": 3}, "bits is 3"),
        ({"bits": 8}, "bits is 8"),
        (
            {"checkpoint_format": "marlin"},
            "is 'marlin'; supported: gptq, gptq_v2",
        ),
        ({"checkpoint_format": "bitblas"}, "checkpoint_format is 'bitblas'"),
        ({"is_marlin_format": True}, "checkpoint_format is 'marlin'"),
        ({"pack_dtype": "int8"}, "pack_dtype is 'int8'"),
        ({"dynamic": {"-:.*down.*": {}}}, None),
        ({"dynamic": {"+:.*down.*": {"bits": 8}}}, r"dynamic gives '\+:.*' settings of its own"),
        ({"group_size": 1024}, "group_size is 1024; supported: -1, 32, 64, 128"),
    ],
    ids=str,
)
def test_settings_that_are_not_supported_are_named(
    folder: Path, settings: dict[str, Any], message: str | None
) -> None:
    quantize(folder, **settings)
    if message is None:
        open_checkpoint(folder)
        return
    with pytest.raises(ExportError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "replacement", "message"),
    [
        (f"{Q_PROJ}.qzeros", None, "q_proj.qzeros is missing"),
        (f"{Q_PROJ}.g_idx", torch.zeros(63, dtype=torch.int32), r"g_idx has shape \[63\]"),
        (f"{Q_PROJ}.qweight", torch.zeros(16, 64, dtype=torch.int32), r"\[16, 64\].*\[8, 64\]"),
        (f"{Q_PROJ}.weight", torch.ones(64, 64), "q_proj.weight is stored twice"),
        ("extra.qweight", torch.ones(1), "extra.qweight does not belong"),
    ],
)
def test_a_tensor_that_is_missing_or_wrong_is_named(
    folder: Path, name: str, replacement: torch.Tensor | None, message: str
) -> None:
    quantize(folder)
    tensors = load_file(folder / "model.safetensors")
    if replacement is None:
        del tensors[name]
    else:
        tensors[name] = replacement
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ExportError, match=message):
        open_checkpoint(folder)
