"""A merged adapter is bit by bit what PEFT's own merge makes of the same files."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx_ir as ir
import peft
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import edgellama.export.adapter as adapter_module
from edgellama.export.adapter import ADAPTER_WEIGHTS, AdaptedCheckpoint, open_adapter
from edgellama.export.adapter_config import AdapterConfig, read_adapter_config
from edgellama.export.checkpoint import HEAD, TABLE, open_checkpoint
from edgellama.export.error import ExportError
from edgellama.export.reference import reference_logits
from edgellama.export.to_onnx import portable_model
from edgellama.optimize.portable_session import PortableSession

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEARS = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
VOCAB, LAYERS = 515, 3
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small products on many threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def make_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a random Llama in a dtype, once each."""
    made: dict[object, Path] = {}

    def make(dtype: torch.dtype = torch.bfloat16, *, tied: bool = False) -> Path:
        key = (dtype, tied)
        if key not in made:
            config = transformers.LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=192,
                intermediate_size=320,
                num_hidden_layers=LAYERS,
                num_attention_heads=6,
                num_key_value_heads=2,
                initializer_range=0.2,
                tie_word_embeddings=tied,
            )
            torch.manual_seed(3)
            made[key] = tmp_path_factory.mktemp("base")
            model = transformers.LlamaForCausalLM(config).to(dtype)
            model.save_pretrained(made[key], max_shard_size="1MB")
        return made[key]

    return make


@pytest.fixture(scope="module")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write an adapter for a base with PEFT, all its weights random."""

    def make(base: Path, **options: Any) -> Path:
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = peft.get_peft_model(
                model, peft.LoraConfig(task_type="CAUSAL_LM", **{"r": 8, **options})
            )
            torch.manual_seed(5)
            for name, weight in adapted.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    torch.nn.init.normal_(weight, std=0.1)
            folder = tmp_path_factory.mktemp("adapter")
            adapted.save_pretrained(folder)
        return folder

    return make


def merged_by_peft(base: Path, adapter: Path) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    return peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()


def require_equal(adapted: AdaptedCheckpoint, merged: Any) -> None:
    """Compare every weight, dtypes included, and whether the head is tied."""
    expected = merged.state_dict()
    assert merged.config.tie_word_embeddings is adapted.model.tie_word_embeddings
    names = set(expected) - ({HEAD} if adapted.model.tie_word_embeddings else set())
    assert set(adapted.tensors) == names
    for name in names:
        found = adapted.read(name)
        assert found.dtype == expected[name].dtype, name
        assert torch.equal(found, expected[name]), name


OPTIONS: dict[str, dict[str, Any]] = {
    "query and value": {"target_modules": ["q_proj", "v_proj"]},
    "every linear": {"target_modules": "all-linear", "lora_alpha": 16},
    "a long rank": {"target_modules": LINEARS, "r": 64, "lora_alpha": 7},
    "rank 1": {"target_modules": LINEARS, "r": 1},
    "rank-stabilised": {"target_modules": ATTENTION, "use_rslora": True, "r": 6, "lora_alpha": 5},
    "patterns": {
        "target_modules": LINEARS,
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.\w+": 5, "^model.layers.0.*v_proj": 3},
        "alpha_pattern": {"down_proj": 3, "model.layers.2.self_attn.k_proj": 11},
    },
    "some layers": {"target_modules": ATTENTION, "layers_to_transform": [0, 2]},
    "one layer, its list named": {
        "target_modules": ["up_proj", "lm_head"],
        "layers_to_transform": 1,
        "layers_pattern": "layers",
    },
    "a regular expression": {"target_modules": r".*\.[02]\..*(gate|up)_proj"},
    "all but some": {"target_modules": LINEARS, "exclude_modules": ["k_proj", "lm_head"]},
    "embedding and head": {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "r": 12},
    "embedding alone, by its path": {"target_modules": ["model.embed_tokens"]},
    "whole tables": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "whole norms": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "a whole linear": {"target_modules": ATTENTION, "modules_to_save": ["k_proj"]},
    "gaussian": {"target_modules": ["o_proj"], "init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(make_base: Any, make_adapter: Any, name: str) -> None:
    base = make_base()
    adapter = make_adapter(base, **OPTIONS[name])
    adapted = open_adapter(adapter, open_checkpoint(base))
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    wrapped = peft.PeftModel.from_pretrained(model, adapter)
    require_same_layers(adapted, read_adapter_config(adapter), wrapped)
    require_equal(adapted, wrapped.merge_and_unload())
    assert any(not torch.equal(adapted.read(n), adapted.base.read(n)) for n in adapted.base.tensors)


def require_same_layers(adapted: AdaptedCheckpoint, config: AdapterConfig, wrapped: Any) -> None:
    """Compare names, ranks and scalings with those of PEFT's layers."""
    layers = {
        module.removeprefix("base_model.model."): layer
        for module, layer in wrapped.named_modules()
        if isinstance(layer, peft.tuners.lora.LoraLayer)
    }
    assert {name.removesuffix(".weight") for name in adapted.low_rank} == set(layers)
    for module, layer in layers.items():
        assert config.rank_of(module) == layer.r["default"]
        assert config.scaling_of(module) == layer.scaling["default"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_of_base_and_adapter(make_base: Any, make_adapter: Any, dtype: torch.dtype) -> None:
    """As PEFT stores an adapter, and as tools that save it in half precision do."""
    base = make_base(dtype)
    adapter = make_adapter(
        base, target_modules=[*LINEARS, "embed_tokens"], modules_to_save=["lm_head", "norm"]
    )
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    for stored in (None, *DTYPES):
        if stored is not None:
            save_file({n: t.to(stored) for n, t in tensors.items()}, adapter / ADAPTER_WEIGHTS)
        require_equal(open_adapter(adapter, open_checkpoint(base)), merged_by_peft(base, adapter))


@pytest.mark.parametrize(
    ("options", "tied"),
    [
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, False),
        ({"modules_to_save": ["embed_tokens"]}, False),
        ({"modules_to_save": ["lm_head"]}, False),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
        ({"modules_to_save": ["norm"]}, True),
        ({}, True),
    ],
)
def test_tied_models(
    make_base: Any, make_adapter: Any, options: dict[str, Any], tied: bool
) -> None:
    base = make_base(tied=True)
    adapter = make_adapter(base, target_modules=["q_proj"], **options)
    adapted = open_adapter(adapter, open_checkpoint(base))
    assert adapted.model.tie_word_embeddings is tied
    require_equal(adapted, merged_by_peft(base, adapter))


@pytest.mark.parametrize(
    ("tied", "options"),
    [
        (False, {"target_modules": LINEARS}),
        (True, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    ],
)
def test_graph_and_reference_compute_what_peft_does(
    make_base: Any, make_adapter: Any, tmp_path: Path, tied: bool, options: dict[str, Any]
) -> None:
    """Before any merge too, but for rounding."""
    base = make_base(torch.float32, tied=tied)
    adapter = make_adapter(base, **options)
    ids = list(range(20))
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        alone = model(torch.tensor([ids])).logits[0].numpy()
        wrapped = peft.PeftModel.from_pretrained(model, adapter)
        expected = wrapped(torch.tensor([ids])).logits[0].numpy()
    adapted = open_adapter(adapter, open_checkpoint(base))
    ((reference,),) = reference_logits(adapted, [ids])
    ir.save(portable_model(adapted, "float32"), tmp_path / "model.onnx", external_data="data")
    found = PortableSession(tmp_path / "model.onnx", adapted.model).logits(ids)
    limit = 1e-4 * np.abs(expected).max()
    assert np.abs(reference - expected).max() < limit
    assert np.abs(found - expected).max() < limit
    assert np.abs(alone - expected).max() > 100 * limit


@pytest.fixture(scope="module")
def adapted(make_base: Any, make_adapter: Any) -> AdaptedCheckpoint:
    base = make_base()
    options = {"target_modules": [*LINEARS, "embed_tokens"], "modules_to_save": ["lm_head"]}
    return open_adapter(make_adapter(base, **options), open_checkpoint(base))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_rows_are_those_of_the_whole(adapted: AdaptedCheckpoint, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(n for n in adapted.tensors if "layers.1" not in n)))
    rows = adapted.tensors[name].shape[0]
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    found = adapted.read_rows(name, start, stop)
    assert torch.equal(found, adapted.read(name)[start:stop])


def test_large_products_are_made_in_blocks(
    adapted: AdaptedCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [TABLE, "model.layers.0.mlp.up_proj.weight", "model.layers.2.mlp.down_proj.weight"]
    whole = {name: adapted.read(name) for name in names}
    monkeypatch.setattr(adapter_module, "_BLOCK_ROWS", 100)
    for name, expected in whole.items():
        assert torch.equal(adapted.read(name), expected)
        assert torch.equal(adapted.read_rows(name, 33, 190), expected[33:190])


def test_threads_read_the_same(adapted: AdaptedCheckpoint) -> None:
    names = list(adapted.tensors) * 3
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(adapted.read, names))
    assert all(torch.equal(t, adapted.read(n)) for n, t in zip(names, found, strict=True))


def test_the_name_has_both(adapted: AdaptedCheckpoint) -> None:
    assert adapted.name == f"{adapted.base.folder.name}+{adapted.adapter.name}"
    assert adapted.base.name == adapted.base.folder.name and adapted.base.adapter is None


def test_the_fingerprint_follows_base_and_adapter(make_base: Any, make_adapter: Any) -> None:
    base = open_checkpoint(make_base())
    folder = make_adapter(make_base(), target_modules=["q_proj"])
    first = open_adapter(folder, base).fingerprint()
    assert open_adapter(folder, base).fingerprint() == first != base.fingerprint()
    edit_config(folder, lora_alpha=9)
    second = open_adapter(folder, base).fingerprint()
    edit_weights(folder, lambda tensors: next(iter(tensors.values())).mul_(2))
    assert len({first, second, open_adapter(folder, base).fingerprint()}) == 3


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / ADAPTER_WEIGHTS)


@pytest.fixture
def base(make_base: Any) -> Any:
    return open_checkpoint(make_base())


@pytest.fixture(scope="module")
def written(make_base: Any, make_adapter: Any) -> Path:
    return make_adapter(make_base(), target_modules=["q_proj"])


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """An adapter of one's own, to be damaged."""
    return shutil.copytree(written, tmp_path / "adapter")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication is"),
        ({"trainable_token_indices": [1, 2]}, r"trainable_token_indices is \[1, 2\]"),
        ({"target_parameters": ["weight"]}, "target_parameters is"),
        ({"an_option_of_tomorrow": 3}, "an_option_of_tomorrow is 3"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16'"),
        ({"init_lora_weights": "olora"}, "changes the base weights"),
        ({"r": 0}, "r is 0"),
        ({"r": 8.0}, "r is 8.0"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"rank_pattern": {"q_proj": "3"}}, "rank_pattern of q_proj is '3'"),
        ({"rank_pattern": {"(": 3}}, "no regular expression"),
        ({"rank_pattern": [3]}, "an object is needed"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"target_modules": 3}, "target_modules is 3"),
        ({"target_modules": "("}, "no regular expression"),
        ({"layers_to_transform": ["1"]}, "layers_to_transform is"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [1]}, "it needs a list of modules"),
        ({"r": 4}, r"q_proj.lora_A.weight has shape \[8, 192\]; .* make it \[4, 192\]"),
        ({"target_modules": ["q_proj", "k_proj"]}, "k_proj.lora_A.weight is missing"),
        ({"target_modules": ["qkv"]}, "belongs to no module that adapter_config.json names"),
        ({"modules_to_save": ["lm_head"]}, "tensor lm_head.weight is missing"),
        ({"layers_to_transform": [0]}, r"layers\.1\.self_attn\.q_proj\.lora_A.* no module"),
    ],
)
def test_other_adapters_are_refused(
    folder: Path, base: Any, changes: dict[str, Any], message: str
) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ExportError, match=message):
        open_adapter(folder, base)


ANY = st.recursive(
    st.sampled_from([None, True, "(", "", "a", 0, -1, 3, 2.5, float("nan"), 10**400]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("q"), inner, max_size=1),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_configuration_is_read_or_refused(written: Path, data: st.DataObject) -> None:
    raw = json.loads((written / "adapter_config.json").read_text())
    raw[data.draw(st.sampled_from(sorted(raw)))] = data.draw(ANY)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "adapter_config.json").write_text(json.dumps(raw))
        try:
            config = read_adapter_config(Path(folder))
        except ExportError as error:
            assert "adapter_config.json" in str(error)
            return
    for module in ("lm_head", "model.layers.1.self_attn.q_proj"):
        assert isinstance(config.targets(module), bool) and isinstance(config.saves(module), bool)
        assert config.rank_of(module) >= 1 and config.scaling_of(module) is not None


PREFIX = "base_model.model."
Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (f"{PREFIX}{Q_PROJ}.lora_A.weight", torch.zeros(8, 64), "is this the adapter's base"),
        (f"{PREFIX}{Q_PROJ}.lora_B.weight", torch.zeros(192, 8).long(), "dtype I64"),
        (f"{PREFIX}{Q_PROJ}.lora_magnitude_vector", torch.zeros(192), "belongs to no module"),
        (f"{PREFIX}model.layers.3.mlp.up_proj.lora_A.weight", torch.zeros(8, 192), "3 layers"),
        (f"{PREFIX}{Q_PROJ}.weight", torch.zeros(192, 192), "belongs to no module"),
        (f"{PREFIX}score.weight", torch.zeros(2, 192), "score.weight belongs to no module"),
        ("model.norm.weight", torch.zeros(192), "does not begin with base_model.model"),
        (f"{PREFIX}{HEAD}", torch.zeros(VOCAB + 2, 192), "vocabulary of 517 tokens"),
        (f"{PREFIX}{TABLE}", torch.zeros(VOCAB + 2, 192), "trained after resizing it"),
    ],
)
def test_tensors_that_do_not_fit(
    folder: Path, base: Any, name: str, tensor: torch.Tensor, message: str
) -> None:
    edit_weights(folder, lambda tensors: tensors.update({name: tensor}))
    with pytest.raises(ExportError, match=message):
        open_adapter(folder, base)


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_a_low_rank_change_of_a_resized_table(
    make_base: Any, make_adapter: Any, base: Any, module: str
) -> None:
    folder = make_adapter(make_base(), target_modules=[module])

    def grow(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            axis = list(tensor.shape).index(VOCAB) if VOCAB in tensor.shape else None
            if axis is not None:
                extra = torch.zeros_like(tensor.narrow(axis, 0, 1))
                tensors[name] = torch.cat([tensor, extra], axis)

    edit_weights(folder, grow)
    with pytest.raises(ExportError, match="vocabulary of 516 tokens, the base model's has 515"):
        open_adapter(folder, base)


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_a_low_rank_change_of_a_tied_table(make_base: Any, make_adapter: Any, module: str) -> None:
    base = make_base(tied=True)
    folder = make_adapter(base, target_modules=["q_proj", module])
    with pytest.raises(ExportError, match=rf"target_modules has (model\.)?{module}, but .* untie"):
        open_adapter(folder, open_checkpoint(base))


def test_two_tables_for_a_tied_model(make_base: Any, make_adapter: Any) -> None:
    base = make_base(tied=True)
    folder = make_adapter(
        base, target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True
    )
    edit_weights(folder, lambda tensors: tensors[PREFIX + HEAD].add_(1))
    with pytest.raises(ExportError, match=f"{HEAD} and {TABLE} differ"):
        open_adapter(folder, open_checkpoint(base))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["A", "B"])
def test_nan_is_named_when_read(folder: Path, base: Any, side: str, value: float) -> None:
    name = f"{PREFIX}{Q_PROJ}.lora_{side}.weight"
    edit_weights(folder, lambda tensors: tensors[name][0, :1].fill_(value))
    with pytest.raises(ExportError, match=f"{Q_PROJ}.lora_{side} .* NaN or infinity"):
        open_adapter(folder, base).read(f"{Q_PROJ}.weight")


def test_a_merge_beyond_float16_is_refused(make_base: Any, make_adapter: Any) -> None:
    base = make_base(torch.float16)
    folder = make_adapter(base, target_modules=["q_proj"])
    edit_config(folder, lora_alpha=1e8)
    with pytest.raises(ExportError, match=rf"{Q_PROJ}\.weight exceeds the range of torch.float16"):
        open_adapter(folder, open_checkpoint(base)).read(f"{Q_PROJ}.weight")


def test_files_that_are_missing_or_pickled(folder: Path, base: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not exist"):
        open_adapter(tmp_path / "nowhere", base)
    with pytest.raises(ExportError, match=r"no adapter_config\.json; .* adapter$"):
        open_adapter(tmp_path, base)
    shutil.copytree(folder, tmp_path / "run" / "checkpoint-20")
    with pytest.raises(ExportError, match="run/checkpoint-20 perhaps"):
        open_adapter(tmp_path / "run", base)
    (folder / ADAPTER_WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(ExportError, match=r"only pickle weights \(adapter_model\.bin\)"):
        open_adapter(folder, base)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(ExportError, match=r"no adapter_model\.safetensors"):
        open_adapter(folder, base)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ExportError, match="not JSON"):
        open_adapter(folder, base)


def test_an_adapter_of_another_model(
    make_base: Any, folder: Path, make_checkpoint: Callable[..., Path]
) -> None:
    other = open_checkpoint(make_checkpoint())
    with pytest.raises(ExportError, match=r"has shape \[8, 192\].* is this the adapter's base"):
        open_adapter(folder, other)
