"""Measure again what an earlier document measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgellama.benchmark.batching import measure_batching
from edgellama.benchmark.latency import Report, measure_latency


def repeat_latency(before: Mapping[str, Any], engine: Path, report: Report) -> dict[str, Any]:
    """Return a document of kind latency over the grid, rounds and threads of an earlier one."""
    requests, steps = before["requests"], before["steps"]
    return measure_latency(
        engine,
        prompts=tuple({row["prompt_tokens"] for row in requests}),
        rows=tuple({row["rows"] for row in requests}),
        contexts=tuple({row["context"] for row in steps}),
        output_tokens=requests[0]["output_tokens"],
        rounds=before["rounds"],
        threads=before["threads"],
        ceilings=before["ceilings"] is not None,
        progress=report,
    )


def repeat_batching(before: Mapping[str, Any], engine: Path, report: Report) -> dict[str, Any]:
    """Return a document of kind batching of the parts, rounds and threads of an earlier one."""
    return measure_batching(
        engine,
        parts=before["parts"],
        rounds=before["rounds"],
        minutes=before["minutes"],
        seed=before["seed"],
        threads=before["threads"],
        progress=report,
    )
