"""Export one checkpoint with edgellama and with others: seconds and peak memory of each."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellama.benchmark.environment import environment
from edgellama.benchmark.peer_environment import TAIL, Packages, PeerError, peer_python
from edgellama.benchmark.peer_packages import GENAI, OPTIMUM_ONNX

Report = Callable[[str, int, int], None]
# What a user without any tool would write: the whole model in memory, no cache, no fusion.
_PLAIN = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
model.config.use_cache = False
ids = torch.zeros((1, 8), dtype=torch.int64)
with torch.no_grad():
    torch.onnx.export(
        model, (), sys.argv[2] + "/model.onnx", kwargs={"input_ids": ids, "use_cache": False},
        dynamic_shapes={"input_ids": {0: "batch", 1: "sequence"}, "use_cache": None},
        dynamo=True, external_data=True,
    )
"""
# A child's peak begins at the memory of the process that forked it, so a small one does.
_LAUNCHER = """
import os, subprocess, sys, time
started = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
print(time.monotonic() - started, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status) & 255)
"""


@dataclass(frozen=True)
class Exporter:
    """One way to make an ONNX model: `command(model, out)` with `{python}` of its environment."""

    name: str
    precision: str
    packages: Packages | None
    command: Callable[[Path, Path], list[str]]


def _ours(precision: str) -> Exporter:
    flags = {"fp32": ["--dtype", "float32"], "fp16": ["--dtype", "float16"]}.get(
        precision, ["--precision", precision]
    )
    return Exporter(
        "edgellama",
        precision,
        None,
        lambda model, out: [
            "{python}",
            "-m",
            "edgellama.cli",
            "export",
            str(model),
            *flags,
            "--out",
            str(out / "export"),
        ],
    )


def _genai(precision: str) -> Exporter:
    return Exporter(
        "onnxruntime-genai",
        precision,
        GENAI,
        lambda model, out: [
            "{python}",
            "-m",
            "onnxruntime_genai.models.builder",
            *("-i", str(model), "-o", str(out), "-p", precision, "-e", "cpu"),
            *("-c", str(out / "cache")),
        ],
    )


EXPORTERS = (
    _ours("fp32"),
    _ours("fp16"),
    _ours("int4_rtn"),
    Exporter(
        "optimum-onnx",
        "fp32",
        OPTIMUM_ONNX,
        lambda model, out: [
            "{python}",
            *("-m", "optimum.commands.optimum_cli", "export", "onnx", "--model", str(model)),
            *("--task", "text-generation-with-past", str(out)),
        ],
    ),
    _genai("fp32"),
    _genai("int4"),
    Exporter(
        "from_pretrained + torch.onnx.export",
        "fp32",
        None,
        lambda model, out: ["{python}", "-c", _PLAIN, str(model), str(out)],
    ),
    # The physical floor: the same bytes read and written once.
    Exporter("cp", "as stored", None, lambda model, out: ["cp", "-rL", f"{model}/.", str(out)]),
)


def run_measured(command: Sequence[str], log: Path) -> tuple[float, int]:
    """Run a command; returns its seconds and the peak resident bytes of its largest process.

    The user's cache is empty, so nothing of an earlier run is used. Memory-mapped pages that were
    touched count. Raises PeerError with the end of its output.
    """
    with log.open("wb") as stream, tempfile.TemporaryDirectory(dir=log.parent) as empty:
        result = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command],
            stdout=subprocess.PIPE,
            stderr=stream,
            env={**os.environ, "XDG_CACHE_HOME": empty},
            check=False,
        )
    if result.returncode:
        text = log.read_text(encoding="utf-8", errors="replace")[-TAIL:]
        raise PeerError(f"{command[0]} ended with {result.returncode}: {text}")
    seconds, kilobytes = result.stdout.split()
    return float(seconds), int(kilobytes) * 1024


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure_exports(
    model: Path,
    cache: Path,
    *,
    names: Sequence[str],
    repeats: int,
    report: Report,
) -> dict[str, Any]:
    """Run each exporter `repeats` times, alternating; medians, and ratios to ours at equal width.

    `cache` keeps the exporters' environments and receives their output, which is deleted after each
    run. Each row has `seconds` (median), `seconds_range`, `peak_rss_bytes`, `bytes`, and
    `seconds_ratio` and `peak_rss_ratio`: that exporter's figure divided by edgellama's with weights
    of the same width (a failed exporter has `error` instead).
    """
    wanted = [item for item in EXPORTERS if item.name in names]
    runs: dict[int, list[tuple[float, int, int]]] = {id(item): [] for item in wanted}
    errors: dict[int, str] = {}
    total = len(wanted) * repeats
    for number in range(total):
        item = wanted[number % len(wanted)]
        report(f"{item.name} {item.precision}", number, total)
        if id(item) in errors:
            continue
        out = cache / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        try:
            python = peer_python(item.packages, cache, report)
            command = [part.replace("{python}", python) for part in item.command(model, out)]
            seconds, peak = run_measured(command, cache / "log.txt")
            runs[id(item)].append((seconds, peak, _bytes(out)))
        except PeerError as error:
            errors[id(item)] = str(error)
        finally:
            shutil.rmtree(out, ignore_errors=True)
    rows = [_row(item, runs[id(item)], errors.get(id(item))) for item in wanted]
    _add_ratios(rows)
    return {"model": model.name, "rows": rows, "environment": environment()}


def _row(item: Exporter, runs: list[tuple[float, int, int]], error: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"exporter": item.name, "precision": item.precision}
    if error is not None:
        return {**row, "error": error}
    seconds = [run[0] for run in runs]
    return {
        **row,
        "seconds": round(statistics.median(seconds), 4),
        "seconds_range": [round(min(seconds), 4), round(max(seconds), 4)],
        "peak_rss_bytes": max(run[1] for run in runs),
        "bytes": runs[-1][2],
    }


def _add_ratios(rows: list[dict[str, Any]]) -> None:
    ours = {row["precision"][:4]: row for row in rows if row["exporter"] == "edgellama"}
    for row in rows:
        base = ours.get(row["precision"][:4])
        if base is None or "error" in row or "error" in base:
            continue
        row["seconds_ratio"] = round(row["seconds"] / base["seconds"], 2)
        row["peak_rss_ratio"] = round(row["peak_rss_bytes"] / base["peak_rss_bytes"], 2)
