"""`edgellama doctor`: what this machine has, and which verbs it can run."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from edgellama.cli.size import size
from edgellama.cli.verb import Verb, print_json

OLDEST_PYTHON = (3, 10)
_BASE = ("click", "numpy", "tokenizers", "llguidance", "jinja2")
_GRPC = ("grpcio", "grpcio-health-checking", "grpcio-reflection", "grpcio-status", "protobuf")
_COMPILE = (
    "onnx",
    "onnx-ir",
    "onnxscript",
    "optimum",
    "safetensors",
    "torch",
    "transformers",
    "huggingface_hub",
    "ml_dtypes",
)
# The runtime is one of several distributions with one import name.
_ONNX_RUNTIME = ("onnxruntime", "onnxruntime-gpu")
_TENSORRT = ("tensorrt", "tensorrt_rtx_cu13")
_RUNTIME = (*_ONNX_RUNTIME, *_TENSORRT)
_FINISH = "finish"
# Verbs -> the distributions they need besides a runtime; `finish` needs one of TensorRT's.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "generate, chat, evaluate, bench latency": _BASE,
    "serve, client, bench serve": (*_BASE, *_GRPC),
    "build, export, optimize": (*_BASE, *_COMPILE),
    _FINISH: (*_BASE, "cuda-python"),
}
_INTERESTING_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "asimddp",
    "i8mm",
)


@dataclass(frozen=True)
class Verdict:
    """Whether some verbs can run, and the distributions that they lack."""

    verbs: str
    missing: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing


def installed(distribution: str) -> str | None:
    """Return the version of a distribution without importing it; None when it is absent."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def cpu_features(cpuinfo: str) -> list[str]:
    """Return the flags of `/proc/cpuinfo` that decide the speed of quantised matrices."""
    flags: set[str] = set()
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags.update(value.split())
    return [flag for flag in _INTERESTING_FLAGS if flag in flags]


def memory(meminfo: str) -> dict[str, int]:
    """Return `total` and `available` bytes from `/proc/meminfo`."""
    names = {"MemTotal": "total", "MemAvailable": "available"}
    found = {}
    for line in meminfo.splitlines():
        key, _, value = line.partition(":")
        if key in names:
            found[names[key]] = int(value.split()[0]) * 1024
    return found


def judge(versions: Mapping[str, str | None]) -> list[Verdict]:
    """Say for each group of verbs what is missing; a runtime counts when any of them is there."""

    def verdict(verbs: str, needs: Sequence[str]) -> Verdict:
        choices = _TENSORRT if verbs == _FINISH else _RUNTIME
        runtime = () if any(versions[name] for name in choices) else choices[:1]
        return Verdict(verbs, (*(name for name in needs if not versions[name]), *runtime))

    return [verdict(verbs, needs) for verbs, needs in NEEDS.items()]


def _gpu() -> dict[str, str]:
    """Return what CUDA says of the first GPU, or why there is none."""
    from edgellama.optimize.error import BuildError
    from edgellama.optimize.tensorrt.preflight import local_gpu

    try:
        return asdict(local_gpu())
    except BuildError as error:
        return {"reason": str(error)}


def _providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _read(path: str) -> str:
    """Return a file of /proc, or nothing on a system without it."""
    file = Path(path)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def examine() -> tuple[dict[str, Any], list[Verdict]]:
    """Return the facts about this machine and the verdict on each group of verbs."""
    wanted = dict.fromkeys((*(name for needs in NEEDS.values() for name in needs), *_RUNTIME))
    versions = {name: installed(name) for name in wanted}
    facts: dict[str, Any] = {
        "edgellama": installed("edgellama"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": versions,
        "providers": _providers() if any(versions[name] for name in _ONNX_RUNTIME) else [],
        "gpu": _gpu(),
        "cpu": {"features": cpu_features(_read("/proc/cpuinfo"))},
        "memory": memory(_read("/proc/meminfo")),
    }
    return facts, judge(versions)


@click.command("doctor", cls=Verb)
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check this machine; exit code 1 when an engine cannot be run or served here."""
    facts, verdicts = examine()
    python_ok = sys.version_info >= OLDEST_PYTHON
    # What builds is for a workstation, or for a GPU: a device without it is healthy.
    served = [item for item in verdicts if not {"build", _FINISH} & {*item.verbs.split(", ")}]
    healthy = python_ok and all(item.ready for item in served)
    if as_json:
        listed = [{**asdict(item), "ready": item.ready} for item in verdicts]
        print_json({"healthy": healthy, **facts, "verbs": listed})
    else:
        _print(facts, verdicts)
    if not healthy:
        ctx.exit(1)


def _print(facts: Mapping[str, Any], verdicts: Sequence[Verdict]) -> None:
    have = [f"{name} {number}" for name, number in facts["packages"].items() if number]
    rows = [
        ("edgellama", facts["edgellama"]),
        ("python", facts["python"]),
        ("system", facts["system"]),
        ("cpu", " ".join(facts["cpu"]["features"]) or "features unknown"),
        (
            "memory",
            ", ".join(f"{size(value)} {name}" for name, value in facts["memory"].items())
            or "unknown",
        ),
        ("providers", ", ".join(facts["providers"]) or "none"),
        ("gpu", ", ".join(facts["gpu"].values())),
        ("packages", ", ".join(have)),
    ]
    for name, text in rows:
        click.echo(f"{name:<12} {text}")
    for item in verdicts:
        state = "ready" if item.ready else f"missing: {', '.join(item.missing)}"
        click.echo(f"{item.verbs}: {state}")
