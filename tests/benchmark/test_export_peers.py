"""The comparison of exporters: what is measured, and what a failing exporter looks like."""

import sys
from pathlib import Path

import pytest

from edgellama.benchmark.export_peers import PeerError, measure_exports, run_measured
from edgellama.export.resolve import resolve_model


def test_peak_memory_is_that_of_the_process(tmp_path: Path) -> None:
    small = run_measured([sys.executable, "-c", "pass"], tmp_path / "log")
    large = run_measured([sys.executable, "-c", "b = b'x' * (200 << 20)"], tmp_path / "log")
    assert 190 << 20 < large[1] - small[1] < 220 << 20


def test_seconds_are_those_of_the_process(tmp_path: Path) -> None:
    seconds, _ = run_measured(
        [sys.executable, "-c", "import time; time.sleep(0.5)"], tmp_path / "l"
    )
    assert seconds >= 0.5


def test_a_failing_exporter_is_quoted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no such tensor'); raise SystemExit(3)"]
    with pytest.raises(PeerError, match=r"(?s)ended with 3: .*no such tensor"):
        run_measured(command, tmp_path / "log")


def test_the_copy_reads_and_writes_the_model_and_leaves_nothing(tmp_path: Path) -> None:
    model = resolve_model("tiny")
    result = measure_exports(
        model, tmp_path, names=["cp"], repeats=2, report=lambda what, done, total: None
    )
    (row,) = result["rows"]
    assert row["bytes"] == sum(path.stat().st_size for path in model.iterdir() if path.is_file())
    assert row["seconds"] > 0 and len(row["seconds_range"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]
