"""docs/verified.md says of every profile and refusal what the code says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from edgellama.profiles.profile import profile_names
from edgellama.profiles.rules import RULES

TESTS = Path(__file__).parent
TEXT = (TESTS.parent / "docs" / "verified.md").read_text(encoding="utf-8")


def printed() -> list[str]:
    """Run the command of the document; returns its tables: profiles, matrix, refusals."""
    path = os.pathsep.join(str(TESTS / folder) for folder in ("optimize", "profiles"))
    done = subprocess.run(
        [sys.executable, str(TESTS / "verified_tables.py")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("\n\n")


def test_the_tables_are_those_that_are_printed() -> None:
    profiles, matrix, refusals = printed()
    for table in (profiles, matrix, refusals):
        assert f"\n\n{table}\n" in TEXT, "print them again and put them in their places"
    named = re.findall(r"^\| `([\w-]+)` \|", profiles, re.MULTILINE)
    assert named == profile_names()
    for rule in RULES:
        assert f"| `{rule.name}` |" in refusals


def test_the_bindings_are_those_of_the_tests() -> None:
    """The table says which versions of TensorRT the code is typed against."""
    older = re.search(
        r"^OLDER = (.*)$", (TESTS / "test_typings.py").read_text("utf-8"), re.MULTILINE
    )
    stub = (TESTS.parent / "Makefile").read_text("utf-8")
    newest = re.search(r"tensorrt-cu13-bindings==(\d+\.\d+\.\d+)", stub)
    assert older is not None and newest is not None
    versions = [*re.findall(r"\"(\d+\.\d+\.\d+)", older[1]), newest[1]]
    tables = (TESTS / "verified_tables.py").read_text("utf-8")
    (named,) = re.findall(r"^BINDINGS = (.*)$", tables, re.MULTILINE)
    assert re.findall(r"\"([\d.]+)\"", named) == versions
