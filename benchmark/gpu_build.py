"""Check `build`: a bundle becomes an engine on this GPU, verified; and once more, faster."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from edgellama.benchmark.check import Job
from edgellama.benchmark.outcome import CheckFailed
from edgellama.optimize.build_report import BuildReport
from edgellama.optimize.finish import finish_bundle
from edgellama.runtime.manifest import read_manifest


def check_build(job: Job) -> dict[str, Any]:
    """Finish the bundle twice, with a timing cache that is empty the first time.

    Raises CheckFailed where the engine was not run on this GPU, or the cache was not used.
    """
    subject = job.engine
    backend = subject.profile.build.backend
    bundle, cache = subject.bundle_folder(job.work), subject.folder(job.work) / "timing"
    engine, again = subject.engine_folder(job.work), subject.folder(job.work) / "again"
    shutil.rmtree(cache, ignore_errors=True)
    first = finish_bundle(bundle, engine, backend=backend, cache=cache)
    figures = _figures(first)
    if not isinstance(first.verify["plan"], Mapping):  # else the reason why it was not run
        raise CheckFailed(f"the engine was built and not verified: {first.verify['plan']}", figures)
    second = finish_bundle(bundle, again, backend=backend, cache=cache)
    built = _figures(second)
    shutil.rmtree(again)
    figures["second"] = {"seconds": built["seconds"], "timing_cache": built["timing_cache"]}
    fault = timing_cache_fault(figures["timing_cache"], built["timing_cache"])
    if fault is not None:
        raise CheckFailed(fault, figures)
    return figures


def _figures(report: BuildReport) -> dict[str, Any]:
    """Return seconds and bytes of a build, and what `verify` found."""
    plan = read_manifest(report.engine).build["tensorrt"]
    before, after = plan["timing_cache_bytes"]
    return {
        "seconds": round(report.seconds, 3),
        "phases": plan["seconds"],
        "peak_rss_bytes": report.peak_rss_bytes,
        "plan_bytes": plan["plan_bytes"],
        "layers": plan["layers"],
        "version": plan["version"],
        "timing_cache": {
            "reason": plan["timing_cache"]["reason"],
            "bytes_before": before,
            "bytes_after": after,
        },
        "verify": report.verify["plan"],
        "warnings": list(plan["warnings"]),
    }


def timing_cache_fault(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """Return why the second build did not find in the cache what the first one had measured.

    A build without a cache says why it has none, and is no fault.
    """
    if first["reason"] is not None:
        return None
    if not first["bytes_after"]:
        return "the first build left an empty timing cache"
    if second["bytes_before"] != first["bytes_after"]:
        return (
            f"the second build read {second['bytes_before']} bytes of timing cache, the first one "
            f"had written {first['bytes_after']}"
        )
    if second["bytes_after"] != second["bytes_before"]:
        return (
            f"the second build measured anew: the timing cache grew from "
            f"{second['bytes_before']} to {second['bytes_after']} bytes"
        )
    return None
