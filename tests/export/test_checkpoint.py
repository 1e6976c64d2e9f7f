"""A checkpoint is refused by name for anything that would make a wrong model."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file

from edgellama.export.checkpoint import expected_tensors, open_checkpoint
from edgellama.export.error import ExportError
from edgellama.export.resolve import resolve_model
from edgellama.profiles.model import UnsupportedModelError

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def folder(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    raw = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(raw))


def test_a_good_checkpoint_lists_every_tensor(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.tensors) == dict(expected_tensors(checkpoint.model)).keys()
    assert checkpoint.read(Q_PROJ).shape == (64, 64)
    elements = sum(checkpoint.read(name).numel() for name in checkpoint.tensors)
    assert elements == checkpoint.model.num_parameters


def test_sharded_and_single_files_read_the_same(make_checkpoint: Callable[..., Path]) -> None:
    single, sharded = make_checkpoint(), make_checkpoint(shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    one, many = open_checkpoint(single), open_checkpoint(sharded)
    assert all(torch.equal(one.read(name), many.read(name)) for name in one.tensors)


def test_the_fingerprint_follows_weights_and_configuration(folder: Path) -> None:
    before = open_checkpoint(folder).fingerprint()
    assert open_checkpoint(folder).fingerprint() == before
    edit_config(folder, rms_norm_eps=1e-3)
    changed = open_checkpoint(folder).fingerprint()
    assert changed != before
    edit_weights(folder, lambda tensors: tensors[Q_PROJ].mul_(2))
    assert open_checkpoint(folder).fingerprint() != changed


def test_missing_folder() -> None:
    with pytest.raises(ExportError, match="does not exist"):
        open_checkpoint(Path("/nowhere/at/all"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForCausalLM"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two'"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
    ],
)
def test_another_model_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        open_checkpoint(folder)


def test_a_damaged_config_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(UnsupportedModelError, match="not JSON"):
        open_checkpoint(folder)


def test_a_missing_shard_is_named(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint(shard_size="100KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ExportError, match=rf"shard {shard.name} is missing"):
        open_checkpoint(folder)


def test_a_truncated_file_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ExportError, match=r"model\.safetensors: damaged or truncated"):
        open_checkpoint(folder)


def test_a_tensor_in_two_shards_is_refused(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint(shard_size="100KB")
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    tensors = load_file(second)
    name = next(iter(tensors))
    save_file({**load_file(first), name: tensors[name]}, first)
    with pytest.raises(ExportError, match=f"tensor {name} is in .* and in"):
        open_checkpoint(folder)


def test_missing_unexpected_and_misshapen_tensors(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update(extra=torch.zeros(2)))
    with pytest.raises(ExportError, match="tensor extra does not belong"):
        open_checkpoint(folder)

    def misshape(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["extra"]
        tensors[Q_PROJ] = torch.zeros(64, 32)

    edit_weights(folder, misshape)
    with pytest.raises(ExportError, match=r"q_proj.weight has shape \[64, 32\]"):
        open_checkpoint(folder)
    edit_weights(folder, lambda tensors: tensors.__delitem__(Q_PROJ))
    with pytest.raises(ExportError, match=f"tensor {Q_PROJ} is missing"):
        open_checkpoint(folder)


def test_integer_weights_are_refused(folder: Path) -> None:
    def as_integers(tensors: dict[str, torch.Tensor]) -> None:
        tensors[Q_PROJ] = torch.zeros(64, 64, dtype=torch.int8)

    edit_weights(folder, as_integers)
    with pytest.raises(ExportError, match="dtype I8"):
        open_checkpoint(folder)


def test_nan_is_refused_when_read(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors[Q_PROJ].fill_(float("nan")))
    with pytest.raises(ExportError, match=f"{Q_PROJ} .* NaN or infinity"):
        open_checkpoint(folder).read(Q_PROJ)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ExportError, match="pickle weights"):
        open_checkpoint(folder)


def test_the_model_argument() -> None:
    assert resolve_model("tiny").joinpath("config.json").is_file()
    with pytest.raises(ExportError, match="neither a folder nor a hub id"):
        resolve_model("./not/there")


def test_a_hub_model_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ExportError, match="owner/name"):
        resolve_model("owner/name")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_are_those_of_the_whole_tensor(
    make_checkpoint: Callable[..., Path], dtype: str
) -> None:
    folder = make_checkpoint(shard_size="100KB")
    stored: dict[str, torch.Tensor] = {}
    for shard in folder.glob("*.safetensors"):
        part = {name: w.to(getattr(torch, dtype)) for name, w in load_file(shard).items()}
        save_file(part, shard)
        stored.update(part)
    checkpoint = open_checkpoint(folder)
    for name, record in checkpoint.tensors.items():
        whole = stored[name]
        assert whole.dtype == getattr(torch, dtype)
        assert torch.equal(checkpoint.read(name), whole)
        rows = record.shape[0]
        for start, stop in [(0, 1), (rows // 2, rows), (3, 3), (rows - 1, rows)]:
            found = checkpoint.read_rows(name, start, stop)
            assert found.dtype == whole.dtype and torch.equal(found, whole[start:stop])
        with pytest.raises(ValueError, match="not within"):
            checkpoint.read_rows(name, 0, rows + 1)


def test_threads_read_the_same_rows(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    jobs = [(n, i) for n, r in checkpoint.tensors.items() for i in range(0, r.shape[0], 16)]
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda job: checkpoint.read_rows(job[0], job[1], job[1] + 1), jobs))
    for (name, index), part in zip(jobs, parts, strict=True):
        assert torch.equal(part, checkpoint.read(name)[index : index + 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_not_finite_are_refused(
    folder: Path, dtype: torch.dtype, value: float
) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[Q_PROJ] = tensors[Q_PROJ].to(dtype)
        tensors[Q_PROJ][37, 11] = value

    edit_weights(folder, spoil)
    checkpoint = open_checkpoint(folder)
    checkpoint.read_rows(Q_PROJ, 0, 37)
    with pytest.raises(ExportError, match=f"{Q_PROJ} .* NaN or infinity"):
        checkpoint.read_rows(Q_PROJ, 30, 40)
