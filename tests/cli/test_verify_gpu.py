"""`edgellama verify-gpu` where there is no GPU: everything is skipped, and both files say why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgellama.benchmark.gpu_checks import CHECKS
from edgellama.cli.__main__ import main
from edgellama.optimize.error import BuildError
from edgellama.optimize.tensorrt.preflight import local_gpu

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_gpu() -> None:
    try:
        local_gpu()
    except BuildError:
        return
    pytest.skip("this machine has a GPU")


def verify(out: Path, *options: str) -> dict[str, Any]:
    arguments = ["verify-gpu", "--out", str(out), "--json", *options]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_everything_is_skipped_with_its_reason(tmp_path: Path) -> None:
    document = verify(tmp_path)
    assert document.pop("out") == str(tmp_path)
    assert document["summary"] == (
        f"Nothing was proved on a device: 0 passed, 0 failed, {len(CHECKS)} skipped."
    )
    assert document["failed"] is False
    assert [check["check"] for check in document["checks"]] == [check.name for check in CHECKS]
    for check in document["checks"]:
        assert check["state"] == "skipped"
        assert "no GPU" in check["reason"] or "cuda-python cannot be imported" in check["reason"]
    machine = document["machine"]  # what is known all the same
    assert machine["gpu"] is None and machine["python"] == sys.version.split()[0]
    assert json.loads((tmp_path / "verify-gpu.json").read_text(encoding="utf-8")) == document
    text = (tmp_path / "verify-gpu.md").read_text(encoding="utf-8")
    assert document["summary"] in text and "## Skipped" in text
    assert "## Passed" not in text and "## Failed" not in text


def test_a_named_profile_is_skipped_by_name(tmp_path: Path) -> None:
    document = verify(tmp_path, "--profile", "l4-1b")
    subjects = [check["subject"] for check in document["checks"] if check["check"] == "build"]
    assert subjects[:2] == ["l4-1b tensorrt", "l4-1b tensorrt-rtx"]
    assert all(check["state"] == "skipped" for check in document["checks"])


def test_the_lines_for_people_end_with_the_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["verify-gpu", "--out", str(tmp_path)], catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("skipped  machine: ")
    assert lines[-1].startswith("Nothing was proved on a device")


def test_a_named_check_brings_those_that_it_follows_from(tmp_path: Path) -> None:
    document = verify(tmp_path, "--check", "kernel-speed", "--check", "latency")
    assert [check["check"] for check in document["checks"]] == [
        *("machine", "cuda", "kernels", "kernel-speed", "bundle", "build", "latency")
    ]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--model", "tiny", "--size", "1b"], 2, "give --model or --size, not both"),
        (["--check", "absent"], 2, "'absent' is none of machine, cuda,"),
        (["--profile", "absent"], 1, "profile 'absent' does not exist"),
        (["--profile", "cpu-tiny"], 1, "needs no GPU"),
        (["--bundle", "absent"], 1, "bundle.json is missing"),
        (["--out", "/dev/null/x"], 1, "/dev/null"),
    ],
)
def test_a_wish_that_cannot_be_read_is_told(
    tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    given = options if "--out" in options else [*options, "--out", str(tmp_path)]
    done = CliRunner().invoke(main, ["verify-gpu", *given])
    assert done.exit_code == code
    assert message in done.stderr


def make(*arguments: str) -> str:
    """Return what make would run."""
    command = ["make", "--dry-run", "--no-print-directory", "verify-gpu", *arguments]
    command += ["--assume-old=.venv/.installed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    last = done.stdout.replace("\\\n", " ").strip().splitlines()[-1]
    return " ".join(last.split())


def test_make_gives_what_was_given() -> None:
    plain = ".venv/bin/edgellama verify-gpu"
    assert make() == plain
    assert make("OUT=x") == f"{plain} --out x"
    assert make("PROFILE=l4-1b", "OUT=x") == f"{plain} --out x --profile l4-1b"
