"""`edgellama bench count` and `bench check`, with the baseline that is kept with the project."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgellama.cli.__main__ import main

BASELINE = Path(__file__).parents[2] / "docs" / "measurements" / "counts-cpu-tiny.json"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments])


def baseline() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(BASELINE.read_text(encoding="utf-8"))
    return document


def test_a_baseline_passes_against_itself() -> None:
    done = run("check", str(BASELINE), "--run", str(BASELINE))
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "0 of 3 figures are worse by more than 10%"


@pytest.mark.parametrize("counts", [(), ("--counts",)])
def test_more_instructions_are_exit_code_1(tmp_path: Path, counts: tuple[str, ...]) -> None:
    worse = baseline()
    worse["instructions"]["sampler"] = round(1.2 * worse["instructions"]["sampler"])
    later = tmp_path / "later.json"
    later.write_text(json.dumps(worse), encoding="utf-8")
    done = run("check", str(BASELINE), "--run", str(later), *counts)
    assert done.exit_code == 1
    assert "instructions of the sampler" in done.stdout and "+20.0 %" in done.stdout
    assert run("check", str(BASELINE), "--run", str(later), "--limit", "0.3").exit_code == 0
    document = json.loads(run("check", str(BASELINE), "--run", str(later), "--json").stdout)
    assert document["failed"] == 1 and document["figures"][0]["worsening"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "give either --run FILE or --engine ENGINE"),
        (("--run", "a", "--engine", "b"), 2, "give either"),
        (("--run", "absent.json"), 1, "absent.json does not exist"),
        (("--engine", "absent"), 1, "absent"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = run("check", str(BASELINE), *arguments)
    assert done.exit_code == code and said in done.stderr


def test_what_is_no_baseline(tmp_path: Path) -> None:
    for text, said in (("[", "is not JSON"), ("[]", "an object is needed"), ("{}", "kind is None")):
        file = tmp_path / "file.json"
        file.write_text(text, encoding="utf-8")
        done = run("check", str(file), "--run", str(BASELINE))
        assert done.exit_code == 1 and said in done.stderr, text


@pytest.mark.slow
def test_the_runtime_takes_no_more_instructions_than_its_baseline(engine: str) -> None:
    """The gate in its short form; a baseline of other versions is said, and made anew by hand."""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    done = run("check", str(BASELINE), "--engine", engine, "--counts", "--json")
    if done.exit_code == 1 and "counted with" in done.stderr:
        pytest.skip(json.loads(done.stderr)["error"]["message"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)["figures"]
    assert [each["figure"] for each in figures] and all(each["now"] > 0 for each in figures)
