"""Plans for every profile that TensorRT for RTX has a GPU for, by NVIDIA's own compiler."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("tensorrt_rtx")

import build_plans
from build_plans import Job
from made_scales import make_scales
from numpy_llama import NumpyLlama
from rtx_matrix import COLUMNS, LAYERS, Cell, cells, rtx_profiles, stand_ins
from target_graph import TracedOnce, write_graph

from edgellama.export.checkpoint import open_checkpoint
from edgellama.export.resolve import resolve_model
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.plan import require_fit
from edgellama.profiles.profile import CALIBRATED_WEIGHTS, Profile, ProfileError, load_gpu
from edgellama.runtime.manifest import Manifest

Result = Mapping[str, Any]
IDS = list(range(3, 60))
# Rules of the matrix, and whether NVIDIA's compiler refuses it too. The 11.x parser takes blocks of
# INT8; the rule is for TensorRT 10.3, which has blocks of INT4 only and no wheel to ask.
NVIDIA_REFUSES = {"int4": True, "fp8": True, "bf16": True, "plain-int8": False}


def run_jobs(folder: Path, jobs: Iterable[Job]) -> dict[str, Result]:
    """Do the jobs in one process of their own; returns the result of each by its name."""
    given = folder / "jobs.pickle"
    given.write_bytes(pickle.dumps(list(jobs)))
    done = subprocess.run(
        [sys.executable, build_plans.__file__, str(given)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1:]}: exit {done.returncode}\n{done.stderr[-3000:]}"
    return {line["name"]: line for line in lines if "name" in line}


@dataclass
class Workshop:
    """Makes checkpoints and graphs, each once."""

    folder: Path
    make_checkpoint: Callable[..., Path]
    checkpoints: dict[tuple[Any, ...], Path] = field(default_factory=dict)
    sources: dict[Path, TracedOnce] = field(default_factory=dict)
    graphs: dict[tuple[Any, ...], tuple[Path, Manifest]] = field(default_factory=dict)

    def checkpoint(self, model: ModelConfig) -> Path:
        """Return random weights with the sizes of a model."""
        sizes = {
            "vocab_size": model.vocab_size,
            "hidden_size": model.hidden_size,
            "intermediate_size": model.intermediate_size,
            "num_hidden_layers": model.num_layers,
            "num_attention_heads": model.num_heads,
            "num_key_value_heads": model.num_kv_heads,
            "head_dim": model.head_dim,
            "max_position_embeddings": model.max_position_embeddings,
            "tie_word_embeddings": model.tie_word_embeddings,
        }
        key = tuple(sizes.values())
        if key not in self.checkpoints:
            self.checkpoints[key] = self.make_checkpoint(**sizes, initializer_range=0.05)
        return self.checkpoints[key]

    def graph(self, checkpoint: Path, profile: Profile) -> tuple[Path, Manifest]:
        """Return the file of a graph and its manifest."""
        precision = profile.precision
        key = (checkpoint, profile.build.target, precision, profile.limits)
        if key not in self.graphs:
            folder = self.folder / f"graph-{len(self.graphs)}"
            if checkpoint not in self.sources:
                self.sources[checkpoint] = TracedOnce(checkpoint)
            scales = None
            if precision.weights in CALIBRATED_WEIGHTS:
                llama = NumpyLlama(checkpoint)
                scales = make_scales(llama, IDS, precision.block_size, precision.weights)
            manifest = write_graph(self.sources[checkpoint], folder, profile, scales)
            self.graphs[key] = folder / "model.onnx", manifest
        return self.graphs[key]

    def build(self, name: str, checkpoint: Path, profile: Profile) -> Job:
        """Return the job of a plan, which no rule is asked about."""
        path, manifest = self.graph(checkpoint, profile)
        return Job(name, path, profile, self.folder / "model.plan", manifest)

    def ask(self, name: str, checkpoint: Path, profile: Profile) -> Job:
        """Return the job of an engine, which goes through all rules."""
        return Job(name, checkpoint, profile, self.folder / "engine")


@pytest.fixture(scope="module")
def workshop(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("matrix"), make_checkpoint)


def plan_name(cell: Cell) -> str:
    """Name what a plan depends on: profiles of one GPU and one model share theirs."""
    model, profile = cell.wish()
    gpu = profile.device.gpu
    assert gpu is not None
    heads = f"{model.num_heads}/{model.num_kv_heads} x {model.head_dim}"
    tied = "tied" if model.tie_word_embeddings else "untied"
    return f"SM{gpu.sm} {heads} {tied} {profile.tensorrt} {profile.build.target} {cell.column} " + (
        f"{profile.precision.compute} {profile.precision.block_size}"
    )


def jobs_of(workshop: Workshop, wanted: Iterable[Cell]) -> list[Job]:
    """Return refusals first, then plans; and again the refused ones, as plans without rules."""
    refusals, plans = [], {}
    for cell in wanted:
        model, profile = cell.wish()
        checkpoint = workshop.checkpoint(model)
        if cell.rule() is not None:
            refusals.append(workshop.ask(f"refused {cell}", checkpoint, profile))
        plans[plan_name(cell)] = workshop.build(plan_name(cell), checkpoint, profile)
    return [*refusals, *plans.values()]


def require_plan(result: Result, target: str, sm: int, depth: int = LAYERS) -> None:
    """Check that a plan is whole, and of the layers that its target promises."""
    assert "failed" not in result, result["failed"]
    assert result["optimization_profiles"] == ["decode", "prefill"]
    assert result["compute_capability"] == f"{sm // 10}.{sm % 10}"
    assert result["bytes"] > 500_000
    layers = result["layers"]
    native = target == "trt-native"
    assert layers.get("ATTENTION_INPUT", 0) == (depth if native else 0)
    assert layers.get("KV_CACHE_UPDATE", 0) == (2 * depth if native else 0)
    assert layers.get("SCATTER", 0) == (0 if native else 2 * depth)


def require_cell(cell: Cell, results: Mapping[str, Result]) -> None:
    """Check what came of a cell: a plan, or our refusal before NVIDIA's."""
    rule, built = cell.rule(), results[plan_name(cell)]
    _, profile = cell.wish()
    assert profile.device.gpu is not None
    if rule is None:
        require_plan(built, cell.target, profile.device.gpu.sm)
        return
    refused = results[f"refused {cell}"]
    assert f"[rule {rule}; source: " in refused["refused"]
    assert refused["nvidia_was_asked"] is refused["left"] is False
    assert ("failed" in built) == NVIDIA_REFUSES[rule], built
    assert not built.get("left")


def show(capfd: pytest.CaptureFixture[str], wanted: list[Cell], results: dict[str, Result]) -> None:
    """Print the matrix: seconds of a plan by target, or the rule."""
    found: dict[str, dict[str, list[str]]] = {}
    for cell in wanted:
        row = found.setdefault(cell.profile if cell.gpu is None else f"{cell.profile} *", {})
        rule = cell.rule()
        text = rule or f"{results[plan_name(cell)]['seconds']:.1f} s"
        row.setdefault(cell.column, []).append(f"{cell.target.removeprefix('trt-')}: {text}")
    columns = list(dict.fromkeys(cell.column for cell in wanted))
    lines = [f"| profile | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in found.items():
        cells_of = (", ".join(row.get(column, ["not asked"])) for column in columns)
        lines.append(f"| {name} | {' | '.join(cells_of)} |")
    with capfd.disabled():
        print("", *lines, sep="\n")


def test_a_part_of_the_matrix(workshop: Workshop, capfd: pytest.CaptureFixture[str]) -> None:
    """One GPU that has every format, and one that lacks most, each for one model."""
    wanted = [cell for cell in cells() if cell.profile == "l4-1b" and cell.weights != "bf16"]
    wanted += [
        Cell("l4-1b", "trt-native", weights, gpu="t4") for weights in ("fp16", "int4_rtn", "fp8")
    ]
    results = run_jobs(workshop.folder, jobs_of(workshop, wanted))
    show(capfd, wanted, results)
    for cell in wanted:
        require_cell(cell, results)


@pytest.mark.slow
def test_the_whole_matrix(workshop: Workshop, capfd: pytest.CaptureFixture[str]) -> None:
    wanted = [*cells(), *stand_ins()]
    results = run_jobs(workshop.folder, jobs_of(workshop, wanted))
    show(capfd, wanted, results)
    for cell in wanted:
        require_cell(cell, results)
    refused = {cell.rule() for cell in wanted}
    assert refused == {None, *NVIDIA_REFUSES}
    assert len(rtx_profiles()) * len(COLUMNS) * 2 == len(list(cells()))


# What other rules refuse: what is changed in `l4-1b`, the rule, and whether NVIDIA's compiler
# refuses it for a target. float32 has no kernel of attention, which trt-plain does not ask for.
OTHERS: tuple[tuple[dict[str, Any], str, str, str, bool], ...] = (
    ({}, "fp32", "trt-compute", "trt-native", True),
    ({}, "fp32", "trt-compute", "trt-plain", False),
    ({"head_dim": 8}, "fp16", "head-size", "trt-native", True),
    ({"head_dim": 20}, "fp16", "head-size", "trt-native", True),
    ({"head_dim": 264}, "fp16", "head-size", "trt-native", True),
    ({"intermediate_size": 544}, "int4_rtn", "trt-blocks", "trt-native", True),
    ({"intermediate_size": 544}, "int4_rtn", "trt-blocks", "trt-plain", True),
)


@pytest.mark.slow
def test_other_rules_and_what_nvidia_says(workshop: Workshop) -> None:
    """Every rule is asked first, and NVIDIA's compiler directly, past the rule."""
    refusals, plans = [], []
    for number, (changes, weights, _, target, _) in enumerate(OTHERS):
        model, profile = Cell("l4-1b", target, weights).wish()
        checkpoint = workshop.checkpoint(replace(model, **changes))
        refusals.append(workshop.ask(f"refused {number}", checkpoint, profile))
        plans.append(workshop.build(f"built {number}", checkpoint, profile))
    results = run_jobs(workshop.folder, [*refusals, *plans])
    for number, (_, _, rule, _, nvidia_refuses) in enumerate(OTHERS):
        refused, built = results[f"refused {number}"], results[f"built {number}"]
        assert f"[rule {rule}; " in refused["refused"]
        assert refused["nvidia_was_asked"] is refused["left"] is False
        assert ("failed" in built) == nvidia_refuses, built


@pytest.mark.slow
def test_heads_at_the_bounds_of_the_rule(workshop: Workshop) -> None:
    jobs = []
    for size in (16, 24, 256):
        model, profile = Cell("l4-1b", "trt-native", "fp16").wish()
        model = replace(model, head_dim=size)
        require_fit(model, profile)
        jobs.append(workshop.build(f"{size}", workshop.checkpoint(model), profile))
    for result in run_jobs(workshop.folder, jobs).values():
        require_plan(result, "trt-native", 89)


# Compute capabilities 8.0, 8.6, 8.9 and 12.0.
REAL_GPUS = ("a100", "a10g", "l4", "rtx5090")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "target"),
    [("babyllama105", "trt-native"), ("tiny", "trt-native"), ("stories260k", "trt-plain")],
)
def test_real_checkpoints(
    workshop: Workshop, request: pytest.FixtureRequest, name: str, target: str
) -> None:
    """With heads of 8, target trt-native is refused by name, as NVIDIA's compiler does (`OTHERS`),
    and trt-plain builds."""
    if name == "tiny":
        checkpoint = resolve_model(name)
    else:
        checkpoint = request.getfixturevalue("shared_data") / name
    model = open_checkpoint(checkpoint).model
    jobs = []
    for gpu in REAL_GPUS:
        for weights in ("fp16", "bf16"):
            _, profile = Cell("l4-1b", target, weights, gpu=gpu).wish()
            require_fit(model, profile)
            jobs.append(workshop.build(f"{gpu} {weights}", checkpoint, profile))
    results = run_jobs(workshop.folder, jobs)
    for job in jobs:
        gpu = load_gpu(job.name.split()[0])
        require_plan(results[job.name], target, gpu.sm, model.num_layers)
    _, native = Cell("l4-1b", "trt-native", "fp16").wish()
    if name == "stories260k":
        with pytest.raises(ProfileError, match=r"head_dim is 8; .*use build.target 'trt-plain'"):
            require_fit(model, native)
