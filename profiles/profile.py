"""A device profile: one TOML file, read strictly into frozen records."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgellama.profiles.bounds import ProfileError as ProfileError
from edgellama.profiles.bounds import require_at_least, require_choice
from edgellama.profiles.gpu import Gpu
from edgellama.profiles.kernels import PROGRAMS_EACH, Kernels
from edgellama.profiles.table import record_from_table
from edgellama.profiles.tensorrt import TensorRt

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Weight-only: fp32, bf16, fp16, int8 and int4_rtn (rounded to nearest), int4_awq (calibrated).
# Weights and activations: fp8 (E4M3, per tensor) and int8_sq (SmoothQuant), both calibrated;
# int8_rows (a scale an output, and one for each token that is measured when it comes).
WEIGHT_PRECISIONS = (
    *("fp32", "bf16", "fp16", "fp8", "int8", "int8_sq", "int8_rows", "int4_rtn", "int4_awq"),
)
BATCH_PRECISIONS = ("int8_rows",)
# Of two forms of the weights, greedy requests take the one their step is faster with, or the first.
GREEDY_FORMS = ("fastest", "first")
TABLE_PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int4_rtn")
KV_PRECISIONS = ("fp32", "bf16", "fp16", "fp8", "int8")
CALIBRATED_WEIGHTS = ("fp8", "int8_sq", "int4_awq")
CALIBRATED_KV = ("fp8", "int8")
FLOAT_PRECISIONS = ("fp32", "bf16", "fp16")
BLOCK_SIZES = (32, 64, 128)
AWQ_METHODS = ("awq_lite", "awq_clip", "awq_full")
KV_GRANULARITIES = ("channel", "tensor")
COMPUTE_PRECISIONS = ("fp32", "bf16", "fp16")
TARGETS = ("ort", "trt-native", "trt-plugin", "trt-plain")
# The libraries that run an engine: TensorRT, and TensorRT for RTX, which builds without a GPU.
TENSORRT_BACKENDS = ("tensorrt", "tensorrt-rtx")
BACKENDS = ("onnxruntime", *TENSORRT_BACKENDS)
_LENGTHS = re.compile("chat|shared-prefix|[1-9][0-9]*/[1-9][0-9]*")


@dataclass(frozen=True)
class Device:
    """The machine: `memory_gib` is what the engine may use; a CPU has compute `threads`, a GPU the
    record of its processor."""

    kind: str
    memory_gib: float
    threads: int | None = None
    gpu: Gpu | None = None

    def __post_init__(self) -> None:
        require_choice("device.kind", self.kind, ("cpu", "gpu"))
        if not 0 < self.memory_gib < math.inf:
            raise ProfileError(
                f"device.memory_gib is {self.memory_gib!r}; it must be > 0 and finite"
            )
        wanted, other = ("threads", "gpu") if self.kind == "cpu" else ("gpu", "threads")
        if getattr(self, wanted) is None:
            raise ProfileError(f"device.{wanted} is missing; a {self.kind} needs it")
        if getattr(self, other) is not None:
            raise ProfileError(f"device.{other} is given for a {self.kind}; leave it out")
        if self.threads is not None:
            require_at_least("device.threads", self.threads, 1)
        if self.gpu is not None and self.memory_gib > self.gpu.memory_gib:
            raise ProfileError(
                f"device.memory_gib is {self.memory_gib}; {self.gpu.name} has "
                f"{self.gpu.memory_gib} in all"
            )


@dataclass(frozen=True)
class Build:
    """How the engine is made: the target's graph, and the library that runs it."""

    target: str
    backend: str

    def __post_init__(self) -> None:
        require_choice("build.target", self.target, TARGETS)
        require_choice("build.backend", self.backend, BACKENDS)
        if self.is_tensorrt != self.target.startswith("trt-"):
            fitting = "a target trt-*" if self.is_tensorrt else "target 'ort'"
            raise ProfileError(
                f"build.target is {self.target!r} with build.backend {self.backend!r}, which runs "
                f"{fitting}; change one of the two"
            )

    @property
    def is_tensorrt(self) -> bool:
        """Whether TensorRT, of either kind, runs the engine."""
        return self.backend in TENSORRT_BACKENDS


@dataclass(frozen=True)
class Precision:
    """Storage of weights, of the embedding and head tables, and of the KV cache.

    `compute` is the float type between the operators. `block_size` is the number of consecutive
    inputs that share one scale in a quantised weight. `batch_weights` is a second form of the
    weights, for steps of so many tokens that it is the faster one; None has none. `greedy_form` is
    the form that requests of temperature 0 are computed with: the `fastest` for the step they are
    in, or always the `first`, so that their tokens do not change with what runs beside them.
    """

    weights: str
    embedding: str
    kv: str
    block_size: int = 128
    compute: str = "fp32"
    batch_weights: str | None = None
    greedy_form: str = "fastest"

    def __post_init__(self) -> None:
        require_choice("precision.weights", self.weights, WEIGHT_PRECISIONS)
        require_choice("precision.embedding", self.embedding, TABLE_PRECISIONS)
        require_choice("precision.kv", self.kv, KV_PRECISIONS)
        require_choice("precision.block_size", self.block_size, BLOCK_SIZES)
        require_choice("precision.compute", self.compute, COMPUTE_PRECISIONS)
        if self.batch_weights is not None:
            require_choice("precision.batch_weights", self.batch_weights, BATCH_PRECISIONS)
        if self.batch_weights == self.weights:
            raise ProfileError(
                f"precision.batch_weights is {self.batch_weights!r}, as precision.weights is; "
                "leave it out, there is one form then"
            )
        require_choice("precision.greedy_form", self.greedy_form, GREEDY_FORMS)
        if self.greedy_form == "first" and self.batch_weights is None:
            raise ProfileError(
                "precision.greedy_form is 'first' without precision.batch_weights; there is one "
                f"form of the weights, {self.weights!r}, and every request takes it: leave it out, "
                "or give batch_weights"
            )

    @property
    def is_float32(self) -> bool:
        """Whether nothing at all is rounded."""
        return {self.weights, self.embedding, self.kv, self.compute} == {"fp32"}

    @property
    def is_mixed(self) -> bool:
        """Whether a step of target ort computes running rows and a chunk of a prompt together.

        Integer products of whole rows do: many tokens cost little more than few. Blocks of 4 bits
        do not: a chunk takes its time by the token, and a step of rows alone would pay for the
        second attention (docs/measurements/weight-forms.md).
        """
        return self.weights in BATCH_PRECISIONS

    @property
    def of_batches(self) -> Precision:
        """The precision of steps of many tokens; needs `batch_weights`."""
        assert self.batch_weights is not None, "the profile has one form of weights"
        weights = self.batch_weights
        return replace(self, weights=weights, batch_weights=None, greedy_form="fastest")

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
        require_choice("calibration.awq", self.awq, AWQ_METHODS)
        require_choice("calibration.kv", self.kv, KV_GRANULARITIES)
        require_at_least("calibration.tokens", self.tokens, 1)
        require_at_least("calibration.length", self.length, 2)
        require_at_least("calibration.seed", self.seed, 0)


@dataclass(frozen=True)
class Accuracy:
    """What a build may lose: `max_perplexity_increase` is a fraction of the float model's
    perplexity (0.05 allows 5 %); without it the loss is reported and none refused."""

    max_perplexity_increase: float | None = None

    def __post_init__(self) -> None:
        if self.max_perplexity_increase is not None:
            require_at_least("accuracy.max_perplexity_increase", self.max_perplexity_increase, 0.0)


@dataclass(frozen=True)
class Limits:
    """Serving limits: sequences in flight, tokens a sequence may hold, tokens a prefill chunk.

    `step_tokens` bounds what a step computes in all: one token of every running sequence, and then
    of a chunk what is left. None leaves it at `slots + prefill_chunk`. `chunk_slowdown` is how many
    times longer than its running sequences alone a step may take because of its chunk; None bounds
    it by tokens only. `draft_tokens` is how many tokens may be guessed for a sequence that runs
    alone; None guesses none. `prefix_store_mib` are MiB of the host's memory for prefixes that no
    slot has room for; 0 keeps none.
    """

    slots: int
    capacity: int
    prefill_chunk: int
    max_queue: int
    step_tokens: int | None = None
    chunk_slowdown: float | None = None
    draft_tokens: int | None = None
    prefix_store_mib: int = 0

    def __post_init__(self) -> None:
        require_at_least("limits.slots", self.slots, 1)
        require_at_least("limits.capacity", self.capacity, 2)
        require_at_least("limits.prefill_chunk", self.prefill_chunk, 1)
        require_at_least("limits.max_queue", self.max_queue, 1)
        if self.step_tokens is not None and self.step_tokens <= self.slots:
            raise ProfileError(
                f"limits.step_tokens is {self.step_tokens}; it must be > limits.slots "
                f"({self.slots}), so that a prompt goes on beside running sequences"
            )
        if self.chunk_slowdown is not None and not (1 < self.chunk_slowdown < math.inf):
            raise ProfileError(
                f"limits.chunk_slowdown is {self.chunk_slowdown}; it must be > 1 and finite, for "
                "example 2.0: a chunk takes time beside the running sequences"
            )
        if self.draft_tokens is not None:
            require_at_least("limits.draft_tokens", self.draft_tokens, 1)
        require_at_least("limits.prefix_store_mib", self.prefix_store_mib, 0)


@dataclass(frozen=True)
class Slo:
    """Service level of one request at the profile's load, 95th percentiles in milliseconds.

    `ttft_ms` is the time to the first token, `itl_ms` the time between two tokens; `source` says
    whose bounds they are. `lengths` are the requests that the bounds are for: `chat`,
    `shared-prefix`, or PROMPT/OUTPUT tokens.
    """

    ttft_ms: float
    itl_ms: float
    source: str
    lengths: str = "chat"

    def __post_init__(self) -> None:
        for name in ("ttft_ms", "itl_ms"):
            if not 0 < getattr(self, name) < math.inf:
                raise ProfileError(f"slo.{name} is {getattr(self, name)!r}; it must be > 0")
        if not _LENGTHS.fullmatch(self.lengths):
            raise ProfileError(
                f"slo.lengths is {self.lengths!r}; it must be 'chat', 'shared-prefix', or "
                "PROMPT/OUTPUT in tokens such as '128/32'"
            )


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
    tensorrt: TensorRt | None = None
    kernels: Kernels | None = None
    slo: Slo | None = None

    def __post_init__(self) -> None:
        if self.build.is_tensorrt and self.device.kind != "gpu":
            raise ProfileError(
                f"build.backend is {self.build.backend!r}, but device.kind is 'cpu'; TensorRT runs "
                "on a GPU: use backend 'onnxruntime'"
            )
        if self.build.is_tensorrt == (self.tensorrt is None):
            state = "missing" if self.tensorrt is None else "given"
            raise ProfileError(
                f"table [tensorrt] is {state}, build.backend is {self.build.backend!r}; a backend "
                "of TensorRT needs it, another would ignore it"
            )
        if (self.build.target == "trt-plugin") == (self.kernels is None):
            state = "missing" if self.kernels is None else "given"
            raise ProfileError(
                f"table [kernels] is {state}, build.target is {self.build.target!r}; target "
                "'trt-plugin' needs it, another would ignore it"
            )

    @property
    def attention_programs(self) -> int | None:
        """Programs that a launch of the fused attention should have; None where no GPU is known."""
        gpu = self.device.gpu
        return None if gpu is None else PROGRAMS_EACH * gpu.multiprocessors

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
    "tensorrt": TensorRt,
    "kernels": Kernels,
    "slo": Slo,
}
_OPTIONAL_SECTIONS = ("calibration", "accuracy")  # with defaults
_ABSENT_SECTIONS = ("tensorrt", "kernels", "slo")  # None where they are not given


def _read_toml(content: bytes, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{where}: not TOML: {error}") from error


def gpu_names() -> list[str]:
    """Return the names of the described GPUs, sorted."""
    return _stems(files("edgellama.profiles") / "gpus")


def load_gpu(name: str) -> Gpu:
    """Read one described GPU by name; raises ProfileError."""
    if name not in gpu_names():
        raise ProfileError(
            f"device.gpu {name!r} is not described; there are {', '.join(gpu_names())}; or write "
            "a table [device.gpu]"
        )
    content = (files("edgellama.profiles") / "gpus" / f"{name}.toml").read_bytes()
    where = f"gpu {name}"
    gpu: Gpu = record_from_table(where, Gpu, _read_toml(content, where))
    return gpu


def _device_table(where: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Put the record of the GPU, named or written out, into the table [device]."""
    table = dict(raw)
    gpu = table.get("gpu")
    if isinstance(gpu, str):
        table["gpu"] = load_gpu(gpu)
    elif isinstance(gpu, Mapping):
        table["gpu"] = record_from_table(f"{where} [device.gpu]", Gpu, gpu)
    return table


def profile_from_dict(raw: Mapping[str, Any], where: str = "profile") -> Profile:
    """Build a profile from its nested plain form; `where` opens every error message."""
    head = dict(raw)
    values: dict[str, Any] = {}
    try:
        for key, kind in _SECTIONS.items():
            table = head.pop(key, {} if key in _OPTIONAL_SECTIONS else None)
            if table is None and key in _ABSENT_SECTIONS:
                continue
            if not isinstance(table, Mapping):
                raise ProfileError(f"{where}: table [{key}] is missing")
            if key == "device":
                table = _device_table(where, table)
            values[key] = record_from_table(f"{where} [{key}]", kind, table)
        for key in ("name", "description", "model"):
            text = head.pop(key, None)
            if not isinstance(text, str):
                raise ProfileError(f"{where}: {key} is {text!r}; a text is needed")
            values[key] = text
        for key in head:
            known = ", ".join(("name", "description", "model", *_SECTIONS))
            raise ProfileError(f"{where}: unknown key {key!r}; known: {known}")
        return Profile(**values)
    except ProfileError as error:
        text = str(error)
        raise ProfileError(text if text.startswith(where) else f"{where}: {text}") from None


def _stems(folder: Any) -> list[str]:
    names = (item.name for item in folder.iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def profile_names() -> list[str]:
    """Return the names of the shipped profiles, sorted."""
    return _stems(files("edgellama.profiles"))


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
    where = f"profile {name_or_path}"
    return profile_from_dict({"name": stem, **_read_toml(content, where)}, where=where)
