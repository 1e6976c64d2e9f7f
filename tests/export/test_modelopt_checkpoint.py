"""Checkpoints that ModelOpt itself wrote read as the model that ModelOpt simulates."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("modelopt")

import modelopt.torch.quantization as mtq
import torch
import transformers
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.export.unified_export_hf import requantize_resmooth_fused_llm_layers
from safetensors.torch import load_file, save_file

from edgellama.export.checkpoint import Checkpoint, open_checkpoint
from edgellama.export.error import ExportError

BLOCK = 32
FLOAT_LINEAR = "model.layers.0.mlp.down_proj"
Q_PROJ = "model.layers.0.self_attn.q_proj"
O_PROJ = "model.layers.0.self_attn.o_proj"
SETTINGS = {
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "architectures": ["LlamaForCausalLM"],
}


@dataclass(frozen=True)
class Exported:
    """A checkpoint of ModelOpt's, and what its model held and answered before it was written."""

    folder: Path
    weights: dict[str, torch.Tensor]  # as the simulated linears compute with them
    cache: dict[str, float]
    logits: torch.Tensor


IDS = torch.randint(0, 258, (4, 32), generator=torch.Generator().manual_seed(3))


def recipe(kind: str) -> dict[str, Any]:
    if kind == "kv":
        off = {"quantizer_name": "*", "enable": False}
        config = {
            "quant_cfg": [off, *copy.deepcopy(mtq.FP8_KV_CFG["quant_cfg"])],
            "algorithm": "max",
        }
    elif kind == "int4":
        config = copy.deepcopy(mtq.INT4_AWQ_CFG)
        for entry in config["quant_cfg"]:
            if entry.get("cfg", {}).get("block_sizes"):
                entry["cfg"]["block_sizes"][-1] = BLOCK
    else:
        config = mtq.update_quant_cfg_with_kv_cache_quant(
            copy.deepcopy(mtq.FP8_DEFAULT_CFG), mtq.FP8_KV_CFG["quant_cfg"]
        )
    config["quant_cfg"].append({"quantizer_name": f"*{FLOAT_LINEAR[6:]}*", "enable": False})
    return dict(config)


def is_quantizer(name: str, *kinds: str) -> bool:
    return any(name.endswith(f"{kind}_quantizer") for kind in kinds)


@torch.no_grad()
def export(kind: str, folder: Path) -> Exported:
    torch.manual_seed(7)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SETTINGS)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    # Channels of unlike size, so that AWQ finds scales worth having.
    for layer in model.model.layers:
        layer.input_layernorm.weight[5] = 9.0
        layer.mlp.up_proj.weight[7] *= 8.0
    mtq.quantize(model, recipe(kind), lambda m: [m(row[None]) for row in IDS])
    # The exporter gives linears of one input one scale before it packs them; done here, it finds
    # nothing left to do, and what is simulated is what is written.
    requantize_resmooth_fused_llm_layers(model)
    cache = {
        f"{name.split('.')[2]}.{'key' if 'k_bmm' in name else 'value'}": float(module.amax)
        for name, module in model.named_modules()
        if is_quantizer(name, "k_bmm", "v_bmm") and module.is_enabled
    }
    # Weights alone are compared: activations and cache are the engine's business.
    others = [
        module
        for name, module in model.named_modules()
        if is_quantizer(name, "input", "q_bmm", "k_bmm", "v_bmm") and module.is_enabled
    ]
    for module in others:
        if kind != "int4":  # there it holds the pre-scale
            module.disable()
    logits = model(IDS).logits
    weights = {
        name: module.weight_quantizer(module.weight).clone()
        for name, module in model.named_modules()
        if hasattr(module, "weight_quantizer") and "embed" not in name
    }
    for module in others:
        module.enable()
    export_hf_checkpoint(model, dtype=torch.float32, export_dir=folder)
    return Exported(folder, weights, cache, logits)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    made: dict[str, Exported] = {}

    def of(kind: str) -> Exported:
        if kind not in made:
            made[kind] = export(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return of


@pytest.fixture
def copied(exported: Callable[[str], Exported], tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: Path(shutil.copytree(exported(kind).folder, tmp_path / kind))


def plain_logits(checkpoint: Checkpoint) -> torch.Tensor:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SETTINGS)).eval()
    model.load_state_dict({name: checkpoint.read(name) for name in checkpoint.tensors})
    with torch.no_grad():
        return model(IDS).logits


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def edit_settings(folder: Path, **changes: Any) -> None:
    path = folder / "hf_quant_config.json"
    raw = json.loads(path.read_text())
    raw["quantization"].update(changes)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize("kind", ["int4", "fp8"])
def test_weights_are_those_that_modelopt_computes_with(
    exported: Callable[[str], Exported], kind: str
) -> None:
    made = exported(kind)
    checkpoint = open_checkpoint(made.folder)
    quantized = [n for n in made.weights if n not in ("lm_head", FLOAT_LINEAR)]
    assert checkpoint.stored_linears == tuple(f"{name}.weight" for name in quantized)
    assert checkpoint.inexact == ()
    for module in quantized:
        linear = checkpoint.stored(f"{module}.weight")
        without = linear.codes.astype(np.float32)
        steps = without.shape[1] // linear.scales.shape[1]
        without *= np.repeat(linear.scales, steps, 1)
        np.testing.assert_allclose(without, made.weights[module].numpy(), rtol=3e-7, atol=0)


@pytest.mark.parametrize("kind", ["int4", "fp8", "kv"])
def test_logits_are_those_of_the_simulated_model(
    exported: Callable[[str], Exported], kind: str
) -> None:
    made = exported(kind)
    logits = plain_logits(open_checkpoint(made.folder))
    largest = float(made.logits.abs().max())
    assert largest > 5
    torch.testing.assert_close(logits, made.logits, rtol=0, atol=1e-5 * largest)


def test_int4_awq_is_described(exported: Callable[[str], Exported]) -> None:
    checkpoint = open_checkpoint(exported("int4").folder, exact=True)
    said = checkpoint.quantization
    assert said is not None
    assert (said.tool, said.precision, said.block_size) == ("modelopt", "int4_awq", BLOCK)
    assert (said.symmetric, said.kv, dict(said.cache)) == (True, None, {})
    linear = checkpoint.stored(f"{O_PROJ}.weight")
    assert linear.codes.dtype == np.int8 and linear.codes.min() >= -8 and linear.codes.max() <= 7
    assert linear.pre_scale is not None and linear.pre_scale.std() > 0.01
    assert checkpoint.stored(f"{Q_PROJ}.weight").pre_scale is None  # in the norm
    with pytest.raises(ExportError, match=r"down_proj.weight is not stored"):
        checkpoint.stored(f"{FLOAT_LINEAR}.weight")


def test_fp8_and_its_cache_are_described(exported: Callable[[str], Exported]) -> None:
    made = exported("fp8")
    checkpoint = open_checkpoint(made.folder)
    said = checkpoint.quantization
    assert said is not None and (said.precision, said.block_size, said.kv) == ("fp8", 0, "fp8")
    assert said.cache.keys() == made.cache.keys() == {"0.key", "0.value", "1.key", "1.value"}
    for key, amax in made.cache.items():
        assert said.cache[key].shape == (1,)
        assert float(said.cache[key][0]) == pytest.approx(amax, rel=1e-6)
    linear = checkpoint.stored(f"{Q_PROJ}.weight")
    assert linear.codes.dtype.name == "float8_e4m3fn" and linear.scales.shape == (1, 1)
    stored = load_file(made.folder / "model.safetensors")[f"{Q_PROJ}.input_scale"]
    assert linear.input_scale == float(stored) > 0


def test_a_quantised_cache_alone_leaves_plain_weights(
    exported: Callable[[str], Exported],
) -> None:
    checkpoint = open_checkpoint(exported("kv").folder)
    said = checkpoint.quantization
    assert said is not None and (said.precision, said.kv) == (None, "fp8")
    assert checkpoint.stored_linears == ()


def test_a_cache_without_scales_has_the_range_of_float8(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("kv")
    edit(
        folder,
        lambda t: [t.pop(n) for n in list(t) if n.endswith(("k_scale", "v_scale"))] and None,
    )
    said = open_checkpoint(folder).quantization
    assert said is not None and {float(a[0]) for a in said.cache.values()} == {448.0}


@pytest.mark.parametrize("kind", ["int4", "fp8"])
@pytest.mark.parametrize("without", ["hf_quant_config.json", "config.json"])
def test_either_file_describes_the_quantisation(
    exported: Callable[[str], Exported], copied: Callable[[str], Path], kind: str, without: str
) -> None:
    folder = copied(kind)
    if without == "config.json":
        raw = json.loads((folder / without).read_text())
        del raw["quantization_config"]
        (folder / without).write_text(json.dumps(raw))
    else:
        (folder / without).unlink()
    one, both = open_checkpoint(folder), open_checkpoint(exported(kind).folder)
    assert one.stored_linears == both.stored_linears != ()
    assert one.quantization is not None and both.quantization is not None
    assert one.quantization.block_size == both.quantization.block_size
    assert dict(one.quantization.cache) == dict(both.quantization.cache)
    assert torch.equal(one.read(f"{O_PROJ}.weight"), both.read(f"{O_PROJ}.weight"))


@pytest.mark.parametrize("kind", ["int4", "fp8"])
def test_rows_are_the_rows_of_the_whole(exported: Callable[[str], Exported], kind: str) -> None:
    checkpoint = open_checkpoint(exported(kind).folder)
    for name in (f"{O_PROJ}.weight", f"{Q_PROJ}.weight", "model.norm.weight"):
        whole = checkpoint.read(name)
        assert whole.shape == checkpoint.tensors[name].shape
        for start, stop in ((0, 1), (3, 8), (7, 7), (5, len(whole))):
            assert torch.equal(checkpoint.read_rows(name, start, stop), whole[start:stop])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_algo": "NVFP4"}, "quant_algo is 'NVFP4'; supported: W4A16_AWQ"),
        ({"quant_algo": "MIXED_PRECISION"}, "quant_algo is 'MIXED_PRECISION'"),
        ({"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, "FP8_PER_CHANNEL"),
        ({"kv_cache_quant_algo": "NVFP4"}, "the cache's quantisation is 'NVFP4'"),
        ({"has_zero_point": True}, "has_zero_point is true"),
        ({"group_size": 48}, "group_size is 48; supported: -1, 32, 64, 128"),
        ({"group_size": 64}, r"weight_scale has shape \[64, 2\]; .* makes it \[64, 1\]"),
        ({"group_size": None}, "group_size is None; a whole number"),
        ({"exclude_modules": ["model.layers.1*"]}, "layers.1.*is quantised, but .* excludes it"),
        ({"exclude_modules": "lm_head"}, "exclude_modules is 'lm_head'; a list"),
        ({"kv_cache_quant_algo": "FP8"}, None),
        ({"quant_algo": "FP8"}, "q_proj.weight has dtype U8; supported: F32, F16, BF16, F8_E4M3"),
        ({"quant_algo": None}, "q_proj.weight has dtype U8"),
    ],
    ids=str,
)
def test_settings_that_are_not_supported_are_named(
    copied: Callable[[str], Path], changes: dict[str, Any], message: str | None
) -> None:
    folder = copied("int4")
    edit_settings(folder, **changes)
    if message is None:
        open_checkpoint(folder)
        return
    with pytest.raises(ExportError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("kind", "name", "replacement", "message"),
    [
        ("int4", f"{Q_PROJ}.weight", None, "q_proj.weight is missing"),
        ("int4", f"{Q_PROJ}.weight_scale", None, "q_proj.weight_scale is missing"),
        ("fp8", f"{Q_PROJ}.input_scale", None, "q_proj.input_scale is missing"),
        ("fp8", f"{Q_PROJ}.weight_scale", torch.ones(64), r"has shape \[64\]"),
        ("fp8", "model.layers.1.self_attn.v_proj.v_scale", None, "v_scale is missing"),
        ("int4", f"{Q_PROJ}.weight", torch.zeros(31, 64, dtype=torch.uint8), r"\[31, 64\]"),
        ("int4", f"{Q_PROJ}.weight", torch.zeros(32, 64, dtype=torch.int32), "dtype I32"),
        ("int4", "lm_head.weight_scale", torch.ones(258, 2), "lm_head.weight_scale does not"),
        ("int4", f"{O_PROJ}.pre_quant_scale", torch.ones(32), r"scale has shape \[32\]"),
    ],
)
def test_a_tensor_that_is_missing_or_wrong_is_named(
    copied: Callable[[str], Path],
    kind: str,
    name: str,
    replacement: torch.Tensor | None,
    message: str,
) -> None:
    folder = copied(kind)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        if replacement is None:
            del tensors[name]
        else:
            tensors[name] = replacement

    edit(folder, change)
    with pytest.raises(ExportError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("int4", f"{O_PROJ}.weight_scale", float("nan"), "weight_scale .* holds NaN"),
        ("int4", f"{O_PROJ}.weight_scale", float("inf"), "weight_scale .* holds NaN or inf"),
        ("int4", f"{O_PROJ}.pre_quant_scale", 0.0, "pre_quant_scale holds 0.0"),
        ("fp8", f"{O_PROJ}.weight_scale", 0.0, "weight_scale is 0.0; a scale must be above 0"),
        ("fp8", f"{O_PROJ}.weight", float("nan"), "o_proj.weight .* holds NaN"),
        ("fp8", f"{O_PROJ}.input_scale", float("nan"), "input_scale .* holds NaN"),
    ],
)
def test_damaged_numbers_are_refused_when_read(
    copied: Callable[[str], Path], kind: str, name: str, value: float, message: str
) -> None:
    folder = copied(kind)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        flat = tensors[name].float().reshape(-1)
        flat[0] = value
        tensors[name] = flat.reshape(tensors[name].shape).to(tensors[name].dtype)

    edit(folder, change)
    checkpoint = open_checkpoint(folder)
    with pytest.raises(ExportError, match=message):
        checkpoint.read(f"{O_PROJ}.weight")


def test_another_producer_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("int4")
    path = folder / "hf_quant_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "producer": {"name": "other"}}))
    with pytest.raises(ExportError, match="producer"):
        open_checkpoint(folder)
