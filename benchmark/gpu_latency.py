"""Check `latency`: `bench latency`, and its decode step beside what the memory can do at best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgellama.benchmark.check import Job
from edgellama.benchmark.latency import measure_latency
from edgellama.profiles.ceiling import decode_step
from edgellama.profiles.plan import Plan, make_plan
from edgellama.runtime.manifest import read_manifest

PROMPT_TOKENS, OUTPUT_TOKENS, REPEATS = 64, 64, 3


def check_latency(job: Job) -> dict[str, Any]:
    """Measure the engine; the copy bandwidth is that of check `cuda`."""
    copy_gb_s = float(job.figures["cuda"]["copy_gb_s"])
    return measure(job.engine.engine_folder(job.work), copy_gb_s)


def measure(folder: Path, copy_gb_s: float) -> dict[str, Any]:
    """Return the document of `bench latency`, each row with its decode step's ceiling and share."""
    manifest = read_manifest(folder)
    plan = make_plan(manifest.model, manifest.profile)
    slots = manifest.kv.slots
    prompt = min(PROMPT_TOKENS, manifest.kv.capacity // 2)
    output = max(2, min(OUTPUT_TOKENS, manifest.kv.capacity - prompt))
    result = measure_latency(
        folder,
        prompts=(prompt,),
        rows=tuple(sorted({1, min(4, slots), slots})),
        output_tokens=output,
        rounds=REPEATS,
        ceilings=False,
        progress=lambda _stage, _done, _total: None,
    )
    for row in result["requests"]:
        step_ms = row["tpot_ms"].get("p50")
        row["ceiling"] = decode_share(plan, row["rows"], prompt + output // 2, step_ms, copy_gb_s)
    return {"copy_gb_s": copy_gb_s, **result}


def decode_share(
    plan: Plan, rows: int, context: int, step_ms: float | None, copy_gb_s: float
) -> dict[str, Any]:
    """Return the bytes that a decode step must read, the milliseconds that a copy of as many takes,
    and their share of the measured step; None where no step was measured.
    """
    assert plan.ceiling is not None, "a profile of a GPU has its bandwidth"
    weights = plan.ceiling.first.bytes  # that step has nothing in its cache yet
    least = decode_step(weights, plan.kv_bytes_per_token, rows, context, copy_gb_s)
    return {
        "bytes": least.bytes,
        "copy_ms": least.ms,
        "step_ms": step_ms,
        "share": None if step_ms is None else least.ms / step_ms,
    }
