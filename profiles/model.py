"""The shape of one Llama model, read from its `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class UnsupportedModelError(ValueError):
    """The checkpoint's configuration is not a text Llama 3 that this project compiles."""


@dataclass(frozen=True)
class RopeScaling:
    """The `llama3` frequency scaling of Llama 3.1 and later (transformers' `rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class ModelConfig:
    """Dimensions and constants that decide the graph; counts are layers, heads and features."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    tie_word_embeddings: bool

    def __post_init__(self) -> None:
        for field in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "max_position_embeddings",
        ):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise UnsupportedModelError(f"config.json: {field} is {value!r}; it must be >= 1")
        for field in ("rms_norm_eps", "rope_theta"):
            if not getattr(self, field) > 0:
                raise UnsupportedModelError(
                    f"config.json: {field} is {getattr(self, field)!r}; it must be > 0"
                )
        if self.num_heads % self.num_kv_heads:
            raise UnsupportedModelError(
                f"config.json: num_attention_heads {self.num_heads} is not a multiple of "
                f"num_key_value_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise UnsupportedModelError(
                f"config.json: head_dim is {self.head_dim}; rotary embedding needs an even number"
            )

    @property
    def query_size(self) -> int:
        """Features of the concatenated query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Features of the concatenated key (or value) heads."""
        return self.num_kv_heads * self.head_dim

    @property
    def num_parameters(self) -> int:
        """Weights of the model; a tied embedding counts once."""
        layer = (
            2 * self.hidden_size  # two norms
            + self.hidden_size * (self.query_size + 2 * self.kv_size)
            + self.query_size * self.hidden_size
            + 3 * self.hidden_size * self.intermediate_size
        )
        tables = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_layers * layer + self.hidden_size + tables

    def kv_bytes_per_token(self, element_bytes: int, head_multiple: int = 1) -> int:
        """Bytes of key and value cache that one token takes over all layers.

        A target whose attention wants heads of a multiple of `head_multiple` features stores the
        padding too.
        """
        head_dim = -(-self.head_dim // head_multiple) * head_multiple
        return 2 * self.num_layers * self.num_kv_heads * head_dim * element_bytes


# The tools whose quantised checkpoints are read: NVIDIA ModelOpt, AutoAWQ, AutoGPTQ and GPTQModel.
QUANTIZATION_METHODS = ("modelopt", "awq", "gptq")
_LARGEST = 2**63  # of any number in config.json
# Relatives of Llama 3 that are other models, and what each is.
_RELATIVES: Mapping[str, str] = {
    "mllama": "a vision model (Llama 3.2 11B or 90B Vision, Llama Guard 3 11B Vision)",
    "mllama_text_model": "the text half of a vision model (Llama 3.2 11B or 90B Vision)",
    "llama4": "Llama 4, a vision mixture of experts",
    "llama4_text": "Llama 4, a mixture of experts",
}


def _number(raw: Mapping[str, Any], key: str, default: int | float | None = None) -> Any:
    value = raw.get(key)
    if value is None:  # absent and null mean the same in config.json
        value = default
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not abs(value) < _LARGEST  # NaN is not below it either
    ):
        raise UnsupportedModelError(f"config.json: {key} is {value!r}; a number is needed")
    return value


def _count(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = _number(raw, key, default)
    if isinstance(value, float) and not value.is_integer():
        raise UnsupportedModelError(f"config.json: {key} is {value!r}; a whole number is needed")
    return int(value)


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key)
    if value is not None and not isinstance(value, bool):
        raise UnsupportedModelError(f"config.json: {key} is {value!r}; it must be true or false")
    return bool(value)


def _rope_parameters(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return either spelling: `rope_scaling` beside `rope_theta`, and `rope_parameters` (5.x)."""
    found = {key: raw[key] for key in ("rope_scaling", "rope_parameters") if raw.get(key)}
    for key, value in found.items():
        if not isinstance(value, Mapping):
            raise UnsupportedModelError(f"config.json: {key} is {value!r}; an object is needed")
    if len(found) == 2:
        for key in found["rope_scaling"].keys() & found["rope_parameters"].keys():
            if found["rope_scaling"][key] != found["rope_parameters"][key]:
                raise UnsupportedModelError(
                    f"config.json: rope_scaling and rope_parameters disagree on {key}; keep one"
                )
    merged = {**found.get("rope_parameters", {}), **found.get("rope_scaling", {})}
    theta, beside = merged.get("rope_theta"), raw.get("rope_theta")
    if theta is not None and beside is not None and theta != beside:
        raise UnsupportedModelError(
            f"config.json: rope_theta is {beside!r}, but {theta!r} within the rope's parameters; "
            "keep one"
        )
    return {"rope_theta": beside, "partial_rotary_factor": raw.get("partial_rotary_factor")} | {
        key: value for key, value in merged.items() if value is not None
    }


def _rope(raw: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Return the base of the frequencies and their scaling."""
    parameters = _rope_parameters(raw)
    partial = _number(parameters, "partial_rotary_factor", 1.0)
    if partial != 1:
        raise UnsupportedModelError(
            f"config.json: partial_rotary_factor is {partial!r}; Llama 3 rotates whole heads (1.0)"
        )
    theta = float(_number(parameters, "rope_theta", 10000.0))  # transformers' default
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise UnsupportedModelError(
            f"config.json: rope_type is {kind!r}; supported are 'default' and 'llama3'"
        )
    return theta, RopeScaling(
        factor=float(_number(parameters, "factor")),
        low_freq_factor=float(_number(parameters, "low_freq_factor")),
        high_freq_factor=float(_number(parameters, "high_freq_factor")),
        original_max_position_embeddings=_count(parameters, "original_max_position_embeddings"),
    )


def _require_text_llama(raw: Mapping[str, Any]) -> None:
    """Refuse another architecture, by its name."""
    kind = raw.get("model_type")
    if isinstance(kind, str) and kind in _RELATIVES:
        raise UnsupportedModelError(
            f"config.json: model_type is {kind!r}, {_RELATIVES[kind]}; only 'llama' (text Llama 3, "
            "3.1, 3.2 1B and 3B, 3.3) is supported"
        )
    if kind != "llama":
        raise UnsupportedModelError(
            f"config.json: model_type is {kind!r}; only 'llama' (text Llama 3) is supported"
        )
    architectures = raw.get("architectures") or ["LlamaForCausalLM"]
    if not isinstance(architectures, list) or "LlamaForCausalLM" not in architectures:
        raise UnsupportedModelError(
            f"config.json: architectures is {architectures}; 'LlamaForCausalLM' is needed"
        )
    for key in ("vision_config", "audio_config"):
        if raw.get(key):
            raise UnsupportedModelError(
                f"config.json: {key} is set; only text models are supported"
            )


def require_quantization_method(
    settings: object, where: str = "config.json: quantization_config"
) -> str:
    """Return the tool that a checkpoint was quantised with; raises for one that is not read."""
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    if method not in QUANTIZATION_METHODS:
        raise UnsupportedModelError(
            f"{where}: quant_method is {method!r}; supported: {', '.join(QUANTIZATION_METHODS)}, "
            "or give the unquantised checkpoint"
        )
    return str(method)


def model_config_from_dict(raw: Mapping[str, Any]) -> ModelConfig:
    """Build the configuration from a parsed `config.json`.

    Raises UnsupportedModelError, naming the field, for anything that is not a text Llama.
    """
    _require_text_llama(raw)
    if raw.get("quantization_config"):
        require_quantization_method(raw["quantization_config"])
    for flag in ("attention_bias", "mlp_bias"):
        if _flag(raw, flag):
            raise UnsupportedModelError(f"config.json: {flag} is true; Llama 3 has no biases")
    if raw.get("sliding_window") is not None and raw.get("use_sliding_window") is not False:
        raise UnsupportedModelError(
            f"config.json: sliding_window is {raw['sliding_window']!r}; Llama 3 attends to all "
            "positions, remove the field if the model was not trained with a window"
        )
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModelError(f"config.json: hidden_act is {activation!r}; 'silu' is needed")
    heads = _count(raw, "num_attention_heads")
    hidden = _count(raw, "hidden_size")
    if heads > 0 and hidden % heads:  # transformers refuses it even where head_dim is given
        raise UnsupportedModelError(
            f"config.json: hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
        )
    theta, scaling = _rope(raw)
    return ModelConfig(
        vocab_size=_count(raw, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_count(raw, "intermediate_size"),
        num_layers=_count(raw, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=_count(raw, "num_key_value_heads", heads),
        head_dim=_count(raw, "head_dim", hidden // max(heads, 1)),
        max_position_embeddings=_count(raw, "max_position_embeddings", 2048),
        rms_norm_eps=float(_number(raw, "rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=_flag(raw, "tie_word_embeddings"),
    )


def read_model_config(checkpoint: Path) -> ModelConfig:
    """Read `config.json` of a checkpoint folder; see `model_config_from_dict` for the errors."""
    path = checkpoint / "config.json"
    if not path.is_file():
        if (checkpoint / "params.json").is_file():
            raise UnsupportedModelError(
                f"{checkpoint}: Meta's original layout (params.json, consolidated.*.pth); give the "
                "Hugging Face layout, the repository's root and not its folder original/"
            )
        if (checkpoint / "adapter_config.json").is_file():
            raise UnsupportedModelError(
                f"{checkpoint}: an adapter and no model; give its base model as the model and this "
                "folder as the adapter"
            )
        raise UnsupportedModelError(
            f"{checkpoint}: no config.json; give a Hugging Face checkpoint folder"
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnsupportedModelError(f"{path}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise UnsupportedModelError(f"{path}: holds a {type(raw).__name__}; an object is needed")
    return model_config_from_dict(raw)
