"""`bench all` on a small engine: the run, its page, and the gate that reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgellama.benchmark.report.document import read_run
from edgellama.cli.__main__ import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments])


@pytest.mark.slow
def test_a_whole_run(engine: str, tmp_path: Path) -> None:
    counts = "--counts" if shutil.which("valgrind") else "--no-counts"
    out = tmp_path / "measured"
    options = ("--rounds", "1", "--seconds", "0.2", "--lengths", "16/40", counts)
    done = run("all", engine, "--out", str(out), *options)
    assert done.exit_code == 0, done.output
    plots = {path.name for path in out.glob("*.png")}
    assert {path.name for path in out.iterdir()} == {"run.json", "report.html"} | plots
    assert len(plots) == 4
    assert done.stdout.splitlines()[-len(plots) - 2] == str(out / "run.json")

    document: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    read = read_run(document)
    assert read.latency is not None and read.serve is not None
    assert document["profile"] == "cpu-tiny" and document["peers"] is None
    assert all(row["share"]["median"] > 0 for row in document["latency"]["steps"])
    assert all(row["requests"] for row in document["serve"]["open"])
    page = (out / "report.html").read_text(encoding="utf-8")
    text = page.partition('<section id="document">')[0]
    for words in ("Words", "read bandwidth", document["environment"]["cpu"]):
        assert words in text, words
    if document["counts"] is not None:
        assert document["counts"]["versions"]["valgrind"] in text

    same = run("check", str(out / "run.json"), "--run", str(out / "run.json"), "--json")
    assert same.exit_code == 0, same.output
    figures = json.loads(same.stdout)["figures"]
    assert len(figures) > 3 and all(each["worsening"] == 0 for each in figures)


def test_what_cannot_be_done_is_said_before_the_work(engine: str, tmp_path: Path) -> None:
    other = tmp_path / "peers.json"
    other.write_text(json.dumps({"kind": "counts"}), encoding="utf-8")
    out = tmp_path / "measured"
    done = run("all", engine, "--out", str(out), "--peers", str(other))
    assert done.exit_code == 1 and "is no document of kind 'peers'" in done.stderr
    assert not out.exists()
    assert run("all", "absent").exit_code == 1
    assert run("all", engine, "--seconds", "0").exit_code == 1
