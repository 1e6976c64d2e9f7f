"""A device profile: one TOML file, read strictly into frozen records."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Weight-only: fp32, bf16, fp16, int8 and int4_rtn (rounded to nearest), int4_awq (calibrated).
# Weights and activations: fp8 (E4M3, per tensor) and int8_sq (SmoothQuant), both calibrated.
WEIGHT_PRECISIONS = ("fp32", "bf16", "fp16", "fp8", "int8", "int8_sq", "int4_rtn", "int4_awq")
TABLE_PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int4_rtn")
KV_PRECISIONS = ("fp32", "fp16", "fp8", "int8")
CALIBRATED_WEIGHTS = ("fp8", "int8_sq", "int4_awq")
CALIBRATED_KV = ("fp8", "int8")
FLOAT_PRECISIONS = ("fp32", "bf16", "fp16")
BLOCK_SIZES = (32, 64, 128)
AWQ_METHODS = ("awq_lite", "awq_clip", "awq_full")
KV_GRANULARITIES = ("channel", "tensor")
TARGETS = ("ort",)
PROVIDERS = ("cpu",)


class ProfileError(ValueError):
    """A profile that does not exist, or a field in it that is unknown, missing or out of range."""


def _choice(field: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        listed = ", ".join(repr(item) for item in allowed)
        raise ProfileError(f"{field} is {value!r}; supported: {listed}")


def _at_least(field: str, value: float, limit: float) -> None:
    if value < limit:
        raise ProfileError(f"{field} is {value!r}; it must be >= {limit}")


@dataclass(frozen=True)
class Device:
    """The machine: `memory_gib` is what the engine may use, `threads` the compute threads."""

    kind: str
    memory_gib: float
    threads: int

    def __post_init__(self) -> None:
        _choice("device.kind", self.kind, ("cpu",))
        if not 0 < self.memory_gib < math.inf:
            raise ProfileError(
                f"device.memory_gib is {self.memory_gib!r}; it must be > 0 and finite"
            )
        _at_least("device.threads", self.threads, 1)


@dataclass(frozen=True)
class Build:
    """How the engine is made: target graph and the runtime provider it is for."""

    target: str
    provider: str

    def __post_init__(self) -> None:
        _choice("build.target", self.target, TARGETS)
        _choice("build.provider", self.provider, PROVIDERS)


@dataclass(frozen=True)
class Precision:
    """Storage of weights, of the embedding and head tables, and of the KV cache.

    `block_size` is the number of consecutive inputs that share one scale in a quantised weight.
    """

    weights: str
    embedding: str
    kv: str
    block_size: int = 128

    def __post_init__(self) -> None:
        _choice("precision.weights", self.weights, WEIGHT_PRECISIONS)
        _choice("precision.embedding", self.embedding, TABLE_PRECISIONS)
        _choice("precision.kv", self.kv, KV_PRECISIONS)
        _choice("precision.block_size", self.block_size, BLOCK_SIZES)

    @property
    def is_float32(self) -> bool:
        """Whether nothing at all is rounded."""
        return {self.weights, self.embedding, self.kv} == {"fp32"}

    @property
    def is_calibrated(self) -> bool:
        """Whether scales must be measured on text before the engine can be made."""
        return self.weights in CALIBRATED_WEIGHTS or self.kv in CALIBRATED_KV


@dataclass(frozen=True)
class Calibration:
    """How scales are measured, where the precision needs any.

    `awq` is modelopt's search for int4_awq: `awq_lite` scales inputs, `awq_clip` clips weights,
    `awq_full` does both. `tokens` are read in sequences of at most `length`, drawn with `seed`.
    `kv` says whether a cache scale covers a channel or a whole tensor.
    """

    awq: str = "awq_full"
    tokens: int = 4096
    length: int = 512
    seed: int = 0
    kv: str = "channel"

    def __post_init__(self) -> None:
        _choice("calibration.awq", self.awq, AWQ_METHODS)
        _choice("calibration.kv", self.kv, KV_GRANULARITIES)
        _at_least("calibration.tokens", self.tokens, 1)
        _at_least("calibration.length", self.length, 2)
        _at_least("calibration.seed", self.seed, 0)


@dataclass(frozen=True)
class Accuracy:
    """What a build may lose: `max_perplexity_increase` is a fraction of the float model's
    perplexity (0.05 allows 5 %); without it the loss is reported and none refused."""

    max_perplexity_increase: float | None = None

    def __post_init__(self) -> None:
        if self.max_perplexity_increase is not None:
            _at_least("accuracy.max_perplexity_increase", self.max_perplexity_increase, 0.0)


@dataclass(frozen=True)
class Limits:
    """Serving limits: sequences in flight, tokens a sequence may hold, tokens a prefill chunk."""

    slots: int
    capacity: int
    prefill_chunk: int
    max_queue: int

    def __post_init__(self) -> None:
        _at_least("limits.slots", self.slots, 1)
        _at_least("limits.capacity", self.capacity, 2)
        _at_least("limits.prefill_chunk", self.prefill_chunk, 1)
        _at_least("limits.max_queue", self.max_queue, 1)


@dataclass(frozen=True)
class Profile:
    """One device and what is built for it; immutable, validated whole."""

    name: str
    description: str
    model: str
    device: Device
    build: Build
    precision: Precision
    limits: Limits
    calibration: Calibration = field(default_factory=Calibration)
    accuracy: Accuracy = field(default_factory=Accuracy)

    def as_dict(self) -> dict[str, Any]:
        """Return the nested plain form, as in the TOML file and in `engine.json`."""
        return asdict(self)


_SECTIONS = {
    "device": Device,
    "build": Build,
    "precision": Precision,
    "limits": Limits,
    "calibration": Calibration,
    "accuracy": Accuracy,
}
_OPTIONAL_SECTIONS = ("calibration", "accuracy")


def _section(where: str, kind: type[Any], raw: Mapping[str, Any]) -> Any:
    """Build one record from a table, refusing unknown, missing and wrongly typed keys."""
    known = {item.name: item for item in fields(kind)}
    for key in raw:
        if key not in known:
            raise ProfileError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, item in known.items():
        if name not in raw:
            if item.default is MISSING:
                raise ProfileError(f"{where}: key {name!r} is missing")
            continue
        value = raw[name]
        wanted = hints[name]
        if (
            wanted in (float, float | None)
            and isinstance(value, int)
            and not isinstance(value, bool)
        ):
            value = float(value)
        if not isinstance(value, wanted) or isinstance(value, bool):
            type_name = getattr(wanted, "__name__", str(wanted))
            raise ProfileError(
                f"{where}: {name} is {value!r}; a value of type {type_name} is needed"
            )
        values[name] = value
    return kind(**values)


def profile_from_dict(raw: Mapping[str, Any], where: str = "profile") -> Profile:
    """Build a profile from its nested plain form; `where` opens every error message."""
    head = dict(raw)
    values: dict[str, Any] = {}
    for key, kind in _SECTIONS.items():
        table = head.pop(key, {} if key in _OPTIONAL_SECTIONS else None)
        if not isinstance(table, Mapping):
            raise ProfileError(f"{where}: table [{key}] is missing")
        try:
            values[key] = _section(f"{where} [{key}]", kind, table)
        except ProfileError as error:
            text = str(error)
            raise ProfileError(text if text.startswith(where) else f"{where}: {text}") from None
    for key in ("name", "description", "model"):
        text = head.pop(key, None)
        if not isinstance(text, str):
            raise ProfileError(f"{where}: {key} is {text!r}; a text is needed")
        values[key] = text
    for key in head:
        known = ", ".join(("name", "description", "model", *_SECTIONS))
        raise ProfileError(f"{where}: unknown key {key!r}; known: {known}")
    return Profile(**values)


def profile_names() -> list[str]:
    """Return the names of the shipped profiles, sorted."""
    return sorted(
        item.name.removesuffix(".toml")
        for item in files("edgellama.profiles").iterdir()
        if item.name.endswith(".toml")
    )


def load_profile(name_or_path: str) -> Profile:
    """Read a shipped profile by name, or any profile by the path of its `.toml` file."""
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise ProfileError(f"profile file {name_or_path} does not exist")
        content, stem = path.read_bytes(), path.stem
    else:
        if name_or_path not in profile_names():
            raise ProfileError(
                f"profile {name_or_path!r} does not exist; shipped: {', '.join(profile_names())}; "
                "or give the path of a .toml file"
            )
        resource = files("edgellama.profiles") / f"{name_or_path}.toml"
        content, stem = resource.read_bytes(), name_or_path
    try:
        raw = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"profile {name_or_path}: not TOML: {error}") from error
    return profile_from_dict({"name": stem, **raw}, where=f"profile {name_or_path}")
