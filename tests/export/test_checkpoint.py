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
        ({"quantization_config": {"quant_method": "hqq"}}, "quantization_config"),
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


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        (torch.int8, "I8"),
        (torch.int64, "I64"),
        (torch.float64, "F64"),
        (torch.float8_e4m3fn, "F8_E4M3"),
    ],
)
def test_other_dtypes_are_refused(folder: Path, dtype: torch.dtype, stored: str) -> None:
    edit_weights(folder, lambda tensors: tensors.update({Q_PROJ: torch.zeros(64, 64, dtype=dtype)}))
    with pytest.raises(ExportError, match=f"{Q_PROJ} has dtype {stored}; supported: F32, F16"):
        open_checkpoint(folder)


def test_nan_is_refused_when_read(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors[Q_PROJ].fill_(float("nan")))
    with pytest.raises(ExportError, match=f"{Q_PROJ} .* NaN or infinity"):
        open_checkpoint(folder).read(Q_PROJ)


def test_both_layouts_in_one_folder(make_checkpoint: Callable[..., Path], folder: Path) -> None:
    sharded = make_checkpoint(shard_size="100KB")
    (folder / "model.safetensors").rename(sharded / "model.safetensors")
    with pytest.raises(ExportError, match=r"both model\.safetensors and"):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "only pickle weights"),
        ("consolidated.00.pth", "only pickle weights"),
        ("model.gguf", "only GGUF weights"),
        ("weights.npz", r"no model\.safetensors and no"),
    ],
)
def test_other_formats_are_refused(folder: Path, name: str, message: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ExportError, match=message):
        open_checkpoint(folder)


def test_meta_own_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text("{}")
    (tmp_path / "consolidated.00.pth").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match="original layout"):
        open_checkpoint(tmp_path)


def test_an_adapter_beside_the_model_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ExportError, match="both a model and an adapter"):
        open_checkpoint(folder)


def edit_index(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "model.safetensors.index.json"
    raw = json.loads(path.read_text())
    edit(raw["weight_map"])
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("../model-00001-of-00003.safetensors", r"names the file '\.\./model"),
        ("/etc/model.safetensors", "names the file '/etc"),
        ("sub/model.safetensors", "names the file 'sub/model"),
        ("..\\model.safetensors", "beside the index"),
        ("pytorch_model.bin", "names the file 'pytorch_model.bin'"),
        (3, "names the file 3"),
        ([], "not a safetensors index"),
        ("model-9.safetensors", "shard model-9.safetensors is missing"),
    ],
)
def test_an_index_may_name_only_its_neighbours(
    make_checkpoint: Callable[..., Path], file: object, message: str
) -> None:
    folder = make_checkpoint(shard_size="100KB")
    edit_index(folder, lambda weight_map: weight_map.update({Q_PROJ: file}))
    with pytest.raises(ExportError, match=message):
        open_checkpoint(folder)


def test_the_index_and_the_shards_must_agree(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint(shard_size="100KB")
    where = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    other = next(file for file in where.values() if file != where[Q_PROJ])
    edit_index(folder, lambda weight_map: weight_map.update({Q_PROJ: other}))
    with pytest.raises(ExportError, match=f"{Q_PROJ} should be in {other}, but it is in"):
        open_checkpoint(folder)
    edit_index(folder, lambda weight_map: weight_map.update({Q_PROJ: where[Q_PROJ], "x": other}))
    with pytest.raises(ExportError, match=f"tensor x should be in {other}, but it is in no file"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors.index.json"])
@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": []}', "{}"])
def test_a_damaged_index_is_named(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ExportError, match=f"{name}: not a safetensors index"):
        open_checkpoint(folder)


def test_rotary_buffers_of_old_checkpoints_are_left_out(folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(folder, lambda tensors: tensors.update({name: torch.ones(8)}))
    assert name not in open_checkpoint(folder).tensors


def test_the_copy_of_a_tied_head_must_be_the_table(folder: Path) -> None:
    table = "model.embed_tokens.weight"

    def copy_head(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors[table].clone()

    edit_weights(folder, copy_head)
    assert "lm_head.weight" not in open_checkpoint(folder).tensors
    edit_weights(folder, lambda tensors: tensors["lm_head.weight"][-1, -1:].add_(1))
    with pytest.raises(ExportError, match=r"lm_head\.weight differs from model\.embed"):
        open_checkpoint(folder)


def test_dtypes_may_differ_between_tensors(folder: Path) -> None:
    def mix(tensors: dict[str, torch.Tensor]) -> None:
        kinds = (torch.float32, torch.float16, torch.bfloat16)
        for index, name in enumerate(tensors):
            tensors[name] = tensors[name].to(kinds[index % 3])

    edit_weights(folder, mix)
    stored = load_file(folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert {record.dtype for record in checkpoint.tensors.values()} == {"F32", "F16", "BF16"}
    for name in checkpoint.tensors:
        assert checkpoint.read(name).dtype == stored[name].dtype
        assert torch.equal(checkpoint.read(name), stored[name])


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
