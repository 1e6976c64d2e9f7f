"""The systems that are compared, each at its own best settings for short answers on a CPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgellama.benchmark.peer_environment import Packages, run_quoted
from edgellama.benchmark.peer_folder import PeerFolder
from edgellama.benchmark.peer_packages import GENAI, LLAMA_CPP, OPENVINO
from edgellama.benchmark.peer_process import WORKERS
from edgellama.benchmark.peer_work import PeerGrid

OURS = "edgellama"
_PROFILES = {"tiny": "cpu-tiny", "1b": "cpu-1b"}
_BLOCK = 128
_GGUF_TYPES = ("Q4_0", "Q4_K_M")


@dataclass(frozen=True)
class PeerSystem:
    """One system: its environment (None is ours), its worker, and how its model is made.

    `model(folder, grid)` makes the model at first use and returns its path. `settings(grid)` are
    the worker's beside `model` and `threads`, and `weights` says what no worker is told.
    `in_flight`: whether a request joins others that are being answered.
    """

    name: str
    packages: Packages | None
    worker: str
    in_flight: bool
    model: Callable[[PeerFolder, PeerGrid], Path]
    weights: str
    settings: Callable[[PeerGrid], dict[str, Any]] = field(default=lambda grid: {})
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The file of its worker."""
        return WORKERS / f"{self.worker}.py"


def _engine(folder: PeerFolder, grid: PeerGrid) -> Path:
    """Build our engine with room for the grid; `build` itself sees whether anything has changed."""
    out = folder.path / "edgellama"
    profile = _PROFILES[folder.size]
    # A slot holds whole pages of 64 tokens or more, whatever the profile.
    capacity = -(-grid.longest // 64) * 64
    limits = ["--slots", str(max(grid.concurrencies)), "--capacity", str(capacity)]
    folder.report("build edgellama", 0, 1)
    command = [sys.executable, "-m", "edgellama.cli", "build", profile, *limits]
    paths = ["--model", str(folder.checkpoint), "--out", str(out)]
    run_quoted("build edgellama", [*command, *paths], os.environ)
    folder.report("build edgellama", 1, 1)
    return out


def _genai(folder: PeerFolder, grid: PeerGrid) -> Path:
    builder = ["{python}", "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu"]
    quantised = [f"block_size={_BLOCK}", "accuracy_level=4"]

    def convert(name: str, *more: str) -> Path:
        def command(out: Path) -> list[str]:
            paths = ["-i", str(folder.checkpoint), "-o", str(out), "-c", str(out / "cache")]
            return [*builder, *paths, "--extra_options", *quantised, *more]

        return folder.convert(f"onnxruntime-genai/{name}", GENAI, command)

    # Its Engine fails on logits of the last token only, which a prompt alone is faster with.
    convert("alone", "prune_lm_head=true")
    return convert("together").parent


def _openvino(folder: PeerFolder, grid: PeerGrid) -> Path:
    program = ["{python}", "-m", "optimum.commands.optimum_cli", "export", "openvino"]
    # As wide as the weights of the others: the tables too, which it would keep at 8 bits.
    width = ["--weight-format", "int4", "--group-size", str(_BLOCK), "--ratio", "1.0", "--sym"]
    task = ["--all-layers", "--task", "text-generation-with-past"]

    def command(out: Path) -> list[str]:
        return [*program, "--model", str(folder.checkpoint), *width, *task, str(out)]

    return folder.convert("openvino-genai", OPENVINO, command)


def _gguf(kind: str) -> Callable[[PeerFolder, PeerGrid], Path]:
    def model(folder: PeerFolder, grid: PeerGrid) -> Path:
        sources = folder.llama_cpp_sources()
        program = ["{python}", str(WORKERS / "llamacpp_convert.py")]

        def command(out: Path) -> list[str]:
            return [*program, str(folder.checkpoint), str(sources), str(out), *_GGUF_TYPES]

        return folder.convert("llama.cpp", LLAMA_CPP, command) / f"{kind}.gguf"

    return model


def _llama_cpp(kind: str) -> PeerSystem:
    def settings(grid: PeerGrid) -> dict[str, Any]:
        return {
            "batch": 512,
            "sequences": max(grid.concurrencies),
            "tokens": grid.longest,
            "tokens_of_many": grid.longest_of_many,
            "unified": False,
        }

    return PeerSystem(
        f"llama.cpp-{kind}", LLAMA_CPP, "llamacpp_worker", True, _gguf(kind), kind, settings
    )


def _transformers(name: str, *, compiled: bool) -> PeerSystem:
    return PeerSystem(
        f"transformers-{name}",
        None,
        "transformers_worker",
        False,
        lambda folder, grid: folder.checkpoint,
        "bfloat16",
        lambda grid: {"compiled": compiled, "static_tokens": grid.longest_answer},
        # Its pool of compilers lives in a session of its own, and two cores gain nothing by it.
        {"TORCHINDUCTOR_COMPILE_THREADS": "1"},
    )


SYSTEMS = {
    system.name: system
    for system in (
        PeerSystem(
            OURS,
            None,
            "edgellama_worker",
            True,
            _engine,
            "int4_rtn, and int8_rows for large steps of the 1b, as the profile cpu-<size> has it",
            # No system guesses: random weights repeat themselves as no real model does. And none
            # bounds what a prompt adds to the steps of running streams: rates are compared.
            lambda grid: {"draft_tokens": None, "chunk_slowdown": None},
        ),
        PeerSystem(
            "onnxruntime-genai",
            GENAI,
            "genai_worker",
            False,
            _genai,
            f"int4, blocks of {_BLOCK}, accuracy level 4",
            lambda grid: {
                "batch": max(grid.concurrencies),
                "tokens_of_many": grid.longest_of_many,
            },
        ),
        PeerSystem(
            "openvino-genai",
            OPENVINO,
            "openvino_worker",
            True,
            _openvino,
            f"int4, groups of {_BLOCK}, symmetric, all layers",
            lambda grid: {"cache_gb": 1},
        ),
        *map(_llama_cpp, _GGUF_TYPES),
        _transformers("eager", compiled=False),
        _transformers("compile", compiled=True),
    )
}
