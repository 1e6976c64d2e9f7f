"""The report of a verification."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgellama.benchmark.check import Job
from edgellama.benchmark.gpu_checks import CHECKS
from edgellama.benchmark.gpu_report import as_markdown, write_reports
from edgellama.benchmark.outcome import Outcome
from edgellama.benchmark.verify_gpu import Verification

sys.path.insert(0, str(Path(__file__).parent))


def full_verification() -> Verification:
    from planted_checks import machine

    figures = {
        "machine": machine(Job(Path("/"))),
        "cuda": {"copy_gb_s": 270.5, "to_device_gb_s": 25.0, "to_host_gb_s": 24.0},
        "build": {
            "seconds": 61.2,
            "second": {"seconds": 12.0},
            "plan_bytes": 1_050_600_000,
            "peak_rss_bytes": 4_250_000_000,
        },
        "latency": {
            "requests": [
                {"rows": 1, "ceiling": {"share": 0.81, "step_ms": 4.5}},
                {"rows": 4, "ceiling": {"share": None, "step_ms": None}},
            ]
        },
    }
    outcomes = [
        Outcome(name, "" if name in ("machine", "cuda") else "l4-1b tensorrt", "passed", "",
                1.5, found)
        for name, found in figures.items()
    ]  # fmt: skip
    outcomes += [
        Outcome("numerics", "l4-1b tensorrt", "failed", "a | b\nc", 2.0, {}, "line 1\n| line 2"),
        Outcome("serving", "one", "skipped", "no library"),
        Outcome("serving", "two", "skipped", "no library"),
    ]
    return Verification(CHECKS, tuple(outcomes), "2026-01-02T03:04:05+00:00", 99.4)


def test_the_markdown_has_every_outcome() -> None:
    text = as_markdown(full_verification())
    assert "On planted: 4 passed, 1 failed, 2 skipped." in text
    assert "| GPU | planted, compute capability 8.9 |" in text
    assert "| tensorrt | module tensorrt cannot be imported |" in text
    assert "| nvidia-smi 0 | name planted, power.draw [W] 71.2 W |" in text
    assert "| numerics | l4-1b tensorrt | a \\| b c |" in text
    assert "### Output of numerics l4-1b tensorrt\n\n    line 1\n    | line 2" in text
    assert "270.5 GB/s on the GPU, 25 to it, 24 from it" in text
    assert "61.2 s, again 12.0 s, plan 1050.6 MB, peak 4.25 GB" in text
    share = "1 rows: 4.50 ms a token, 81 % of the copy bandwidth; 4 rows: no step measured"
    assert share in text
    assert "| serving | one, two | no library |" in text
    assert text.index("## Failed") < text.index("## Passed") < text.index("## Skipped")
    for line in text.splitlines():  # a cell that breaks its row would show as another count
        if line.startswith("|"):
            assert line.endswith("|")


def test_the_files_are_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    write_reports(full_verification(), out)
    write_reports(full_verification(), out)
    assert sorted(path.name for path in out.iterdir()) == ["verify-gpu.json", "verify-gpu.md"]
    document = json.loads((out / "verify-gpu.json").read_text(encoding="utf-8"))
    assert document["failed"] is True
    assert document["counts"] == {"passed": 4, "failed": 1, "skipped": 2}
    assert document["checks"][4]["reason"] == "a | b\nc"


def test_an_outcome_has_a_reason_or_passed() -> None:
    with pytest.raises(ValueError, match="state passed with reason"):
        Outcome("x", "", "passed", "why")
    with pytest.raises(ValueError, match="state failed with reason ''"):
        Outcome("x", "", "failed")
    with pytest.raises(ValueError, match="it must be one of passed, failed, skipped"):
        Outcome("x", "", "well")
