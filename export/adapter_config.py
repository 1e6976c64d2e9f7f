"""A PEFT adapter's `adapter_config.json`: which modules it changes, and by how much."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellama.export.error import ExportError

ADAPTER_CONFIG = "adapter_config.json"
# Fields that this module reads.
_READ = {
    "alpha_pattern",
    "bias",
    "ensure_weight_tying",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
}
# Fields that matter in training only, or belong to an option that is refused by another field.
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
# Initialisations that leave the base weights alone. The others subtract the first product from
# them, so that the adapter belongs to weights that are not those of the base model.
_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")
_ALL_LINEAR = "all-linear"
_LAYER = re.compile(r".*?\.[^.]*\.(?P<index>\d+)\.")


@dataclass(frozen=True)
class AdapterConfig:
    """What PEFT's LoraConfig says of merging; module names are dotted, without `.weight`."""

    rank: int
    alpha: float
    rank_stabilized: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: str | tuple[str, ...]
    exclude_modules: str | tuple[str, ...]
    layers: tuple[int, ...]
    layers_pattern: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    tied: bool

    def targets(self, module: str) -> bool:
        """Return whether PEFT puts an adapter on a linear or embedding of this name."""
        if _named(self.exclude_modules, module) or any(
            re.match(rf"(^|.*\.){saved}($|\..*)", module) for saved in self.modules_to_save
        ):
            return False
        if isinstance(self.target_modules, str):
            if self.target_modules.lower() == _ALL_LINEAR:
                return module.endswith("_proj")  # PEFT leaves the head out
            return re.fullmatch(self.target_modules, module) is not None
        # PEFT asks for the layer only where a name is the end of the module's.
        return module in self.target_modules or (
            _named(self.target_modules, module) and self._in_layers(module)
        )

    def saves(self, module: str) -> bool:
        """Return whether the adapter brings the whole weight of a module."""
        return module.endswith(self.modules_to_save)

    def rank_of(self, module: str) -> int:
        """Return r of a module."""
        return self.rank_pattern.get(_pattern(self.rank_pattern, module), self.rank)

    def scaling_of(self, module: str) -> float:
        """Return the factor of the product B @ A."""
        rank = self.rank_of(module)
        alpha = self.alpha_pattern.get(_pattern(self.alpha_pattern, module), self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilized else alpha / rank

    def _in_layers(self, module: str) -> bool:
        if not self.layers:
            return True
        if not self.layers_pattern:
            match = _LAYER.match(module)
        else:
            patterns = (rf"(?:^|.*?\.){p}\.(?P<index>\d+)\." for p in self.layers_pattern)
            match = next((m for m in (re.match(p, module) for p in patterns) if m), None)
        return match is not None and int(match["index"]) in self.layers


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read `adapter_config.json` of a LoRA adapter.

    Raises ExportError, naming the field, for what cannot be merged or is not known: an option that
    would be ignored would give another model.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        steps = sorted(path.parent.name for path in folder.glob(f"checkpoint-*/{ADAPTER_CONFIG}"))
        hint = f", {folder / steps[-1]} perhaps" if steps else ""
        raise ExportError(f"{folder}: no {ADAPTER_CONFIG}; give the folder of a PEFT adapter{hint}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ExportError(f"{path}: holds a {type(raw).__name__}; an object is needed")
    _require_plain_lora(path, raw)
    config = AdapterConfig(
        rank=_rank(path, "r", raw.get("r")),
        alpha=_alpha(path, "lora_alpha", raw.get("lora_alpha")),
        rank_stabilized=_flag(path, raw, "use_rslora"),
        rank_pattern={
            _expression(path, "rank_pattern", key): _rank(path, f"rank_pattern of {key}", value)
            for key, value in _object(path, raw, "rank_pattern").items()
        },
        alpha_pattern={
            _expression(path, "alpha_pattern", key): _alpha(path, f"alpha_pattern of {key}", value)
            for key, value in _object(path, raw, "alpha_pattern").items()
        },
        target_modules=_modules(path, raw, "target_modules"),
        exclude_modules=_modules(path, raw, "exclude_modules"),
        layers=_layers(path, raw),
        layers_pattern=_texts(path, raw, "layers_pattern"),
        modules_to_save=_texts(path, raw, "modules_to_save"),
        tied=_flag(path, raw, "ensure_weight_tying"),
    )
    for field in ("layers_pattern", "modules_to_save"):
        for text in getattr(config, field):
            _expression(path, field, text)
    if isinstance(config.target_modules, str) and config.layers:
        raise ExportError(
            f"{path}: layers_to_transform is set with target_modules {config.target_modules!r}; "
            "it needs a list of modules"
        )
    return config


def _require_plain_lora(path: Path, raw: Mapping[str, Any]) -> None:
    """Refuse other kinds of adapters and variants of LoRA, by the field that asks for them."""
    if raw.get("peft_type") != "LORA":
        raise ExportError(
            f"{path}: peft_type is {raw.get('peft_type')!r}; only 'LORA' is supported, merge the "
            "adapter with PEFT (merge_and_unload) and give the result as the model"
        )
    if raw.get("bias") not in (None, "none"):
        raise ExportError(
            f"{path}: bias is {raw['bias']!r}; Llama 3 has no biases, 'none' is needed"
        )
    start = raw.get("init_lora_weights")
    if start not in _INITIALISATIONS:
        raise ExportError(
            f"{path}: init_lora_weights is {start!r}, which changes the base weights; save the "
            "adapter with path_initial_model_for_weight_conversion, as PEFT's guide of it says"
        )
    for field in raw.keys() - _READ - _HARMLESS:
        if raw[field] not in (None, False, "", [], {}):
            raise ExportError(
                f"{path}: {field} is {raw[field]!r}, which is not supported; merge the adapter "
                "with PEFT (merge_and_unload) and give the result as the model"
            )


def _named(modules: str | tuple[str, ...], module: str) -> bool:
    if isinstance(modules, str):
        return bool(modules) and re.fullmatch(modules, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in modules)


def _pattern(patterns: Mapping[str, Any], module: str) -> str:
    """Return the first pattern that matches the end of a module's name."""
    return next((p for p in patterns if re.match(rf"(.*\.)?({p})$", module)), module)


def _rank(path: Path, field: str, value: object) -> int:
    if type(value) is not int or not 1 <= value < 2**31:
        raise ExportError(f"{path}: {field} is {value!r}; a whole number from 1 is needed")
    return value


def _alpha(path: Path, field: str, value: object) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not abs(value) < 2**63  # NaN is not below it either
    ):
        raise ExportError(f"{path}: {field} is {value!r}; a number is needed")
    return value


def _flag(path: Path, raw: Mapping[str, Any], field: str) -> bool:
    value = raw.get(field)
    if value is not None and not isinstance(value, bool):
        raise ExportError(f"{path}: {field} is {value!r}; it must be true or false")
    return bool(value)


def _object(path: Path, raw: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = raw.get(field) or {}
    if not isinstance(value, dict):
        raise ExportError(f"{path}: {field} is {value!r}; an object is needed")
    return value


def _texts(path: Path, raw: Mapping[str, Any], field: str) -> tuple[str, ...]:
    value = raw.get(field) or []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(t, str) and t for t in texts):
        raise ExportError(f"{path}: {field} is {value!r}; a list of names is needed")
    return tuple(texts)


def _modules(path: Path, raw: Mapping[str, Any], field: str) -> str | tuple[str, ...]:
    value = raw.get(field)
    if isinstance(value, str):
        return _expression(path, field, value)
    return _texts(path, raw, field)


def _layers(path: Path, raw: Mapping[str, Any]) -> tuple[int, ...]:
    value = raw.get("layers_to_transform")
    layers = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(layer) is int for layer in layers):
        raise ExportError(f"{path}: layers_to_transform is {value!r}; layer numbers are needed")
    return tuple(layers)


def _expression(path: Path, field: str, text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ExportError(f"{path}: {field}: {text!r} is no regular expression: {error}") from error
    return text
