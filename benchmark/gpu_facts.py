"""Check `machine`: the GPU, and what is installed to use it."""

from __future__ import annotations

import csv
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgellama.benchmark.outcome import CheckSkipped

if TYPE_CHECKING:
    from edgellama.benchmark.check import Job

# What makes a bundle of a checkpoint, and what measures scales: by the name that is imported.
COMPILER = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "ml_dtypes")
CALIBRATION = ("modelopt",)
# What runs the kernels by themselves.
KERNELS = ("torch", "triton", "ml_dtypes")
DISTRIBUTIONS = (
    "edgellama",
    "cuda-python",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "triton",
)
LIBRARIES = ("tensorrt", "tensorrt-rtx")
# Units are in the names that nvidia-smi gives its own columns: MiB, MHz, W, degrees Celsius.
SMI_FIELDS = (
    "name",
    "driver_version",
    "memory.total",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "pstate",
)
_SMI_SECONDS = 30


@dataclass(frozen=True)
class Facts:
    """What decides which checks are made: the GPU or why there is none, the version of each library
    or why it cannot be used, and the importable packages."""

    gpu: str | None
    compute_capability: str | None
    no_gpu: str | None
    libraries: Mapping[str, str]
    missing: Mapping[str, str]
    packages: frozenset[str]

    def __post_init__(self) -> None:
        assert (self.gpu is None) == (self.no_gpu is not None), self


def facts_of(figures: Mapping[str, Any]) -> Facts:
    """Read the facts out of the figures of the check."""
    gpu = figures["gpu"]
    libraries: Mapping[str, Mapping[str, str]] = figures["libraries"]
    return Facts(
        gpu=gpu and gpu["name"],
        compute_capability=gpu and gpu["compute_capability"],
        no_gpu=figures["no_gpu"],
        libraries={k: v["version"] for k, v in libraries.items() if "version" in v},
        missing={k: v["missing"] for k, v in libraries.items() if "missing" in v},
        packages=frozenset(figures["packages"]),
    )


def check_machine(_job: Job) -> dict[str, Any]:
    """Return what this machine is; raises CheckSkipped, with all of it, where there is no GPU."""
    gpu, no_gpu = _gpu()
    figures = {
        "gpu": gpu,
        "no_gpu": no_gpu,
        "nvidia_smi": _nvidia_smi(),
        "libraries": {name: _library(name) for name in LIBRARIES},
        "versions": {name: found for name in DISTRIBUTIONS if (found := installed(name))},
        "packages": [
            name for name in dict.fromkeys((*COMPILER, *CALIBRATION, *KERNELS)) if find_spec(name)
        ],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
    }
    if no_gpu is not None:
        raise CheckSkipped(no_gpu, figures)
    return figures


def installed(distribution: str) -> str | None:
    """Return the version of a distribution without importing it; None where it is absent."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _gpu() -> tuple[dict[str, Any] | None, str | None]:
    """Return what CUDA says of the first GPU, or why it cannot be asked."""
    try:
        from edgellama.runtime.cuda import Cuda
    except ImportError as error:
        return None, f"cuda-python cannot be imported ({error}); install cuda-python >= 12.6"
    from edgellama.runtime.manifest import EngineError

    try:
        cuda = Cuda()
        found = cuda.properties()
        return {
            "name": found.name,
            "compute_capability": found.compute_capability,
            "driver_cuda": found.driver,
            "available_bytes": cuda.available_memory(),
        }, None
    except (RuntimeError, EngineError) as error:  # RuntimeError: no driver at all
        return None, f"this machine shows no GPU ({error})"


def _library(name: str) -> dict[str, str]:
    from edgellama.runtime.manifest import EngineError
    from edgellama.runtime.tensorrt_engine import import_library

    try:
        return {"version": str(import_library(name).__version__)}
    except EngineError as error:
        return {"missing": str(error)}


def _nvidia_smi() -> dict[str, Any]:
    """Return clocks, power and memory of the GPUs, or why nvidia-smi cannot tell them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"missing": "nvidia-smi is not on this machine"}
    query = [program, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, check=False, timeout=_SMI_SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"missing": f"nvidia-smi did not answer within {_SMI_SECONDS} s"}
    if done.returncode != 0:
        return {"missing": f"nvidia-smi ended with {done.returncode}: {done.stdout.strip()}"}
    return {"gpus": read_smi(done.stdout)}


def read_smi(text: str) -> list[dict[str, str]]:
    """Read the CSV of nvidia-smi: a row a GPU, by its own column names with their units."""
    rows = csv.DictReader(text.splitlines(), skipinitialspace=True)
    return [{key: value for key, value in row.items() if value != "[N/A]"} for row in rows]
