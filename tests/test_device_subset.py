"""The folders that run on a device are Python 3.10."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# `cli` and `benchmark` too: `edgellama serve` and `bench` run on the device.
FOLDERS = ("profiles", "runtime", "grpc_service", "cli", "benchmark")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_syntax_is_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 10))


def python_3_10() -> str:
    """Return an interpreter that really is 3.10: a shim on PATH may exist and not work."""
    candidates = [shutil.which("python3.10")]
    candidates += [str(path) for path in Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10")]
    for candidate in filter(None, candidates):
        done = subprocess.run(
            [candidate, "-c", "import sys; print(sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0 and done.stdout.strip() == "(3, 10)":
            return candidate
    pytest.skip("no Python 3.10 on this machine")


@pytest.mark.slow
def test_python_3_10_compiles_every_file(tmp_path: Path) -> None:
    code = (
        "import sys, py_compile\n"
        "for path in sys.argv[2:]: py_compile.compile(path, sys.argv[1], doraise=True)"
    )
    output = str(tmp_path / "x.pyc")
    done = subprocess.run(
        [python_3_10(), "-c", code, output, *map(str, FILES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_python_3_10_imports_the_core(tmp_path: Path) -> None:
    """Import what needs the standard library only, through a folder of links named `edgellama`."""
    view = tmp_path / "edgellama"
    view.mkdir()
    for folder in ("runtime", "profiles"):
        (view / folder).symlink_to(ROOT / folder)
    modules = ("request", "step", "sequence", "slots", "scheduler")
    code = ";".join(f"import edgellama.runtime.{module}" for module in modules)
    done = subprocess.run(
        [python_3_10(), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_python_3_10_runs_an_engine(tmp_path: Path) -> None:
    """Install the base package and a runtime alone, and ask an engine that was built elsewhere."""
    python = python_3_10()
    engine, sources = tmp_path / "engine", tmp_path / "sources"
    build = [sys.executable, "-m", "edgellama.cli", "build", "cpu-tiny", "--out", str(engine)]
    subprocess.run([*build, "--json"], capture_output=True, check=True)
    ignored = shutil.ignore_patterns(".*", "build", "dist", "engines", "tests", "*.egg-info")
    shutil.copytree(ROOT, sources, ignore=ignored)  # pip leaves a build folder in the sources
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True)
    programs = tmp_path / "venv" / "bin"
    install = [programs / "python", "-m", "pip", "install", "-q", f"{sources}[cpu]"]
    subprocess.run(install, cwd=tmp_path, check=True)
    listed = subprocess.run(
        [programs / "python", "-m", "pip", "list", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {package["name"] for package in json.loads(listed.stdout)}
    assert not names & {"torch", "transformers", "onnx", "safetensors"}
    question = ["--chat", "What is the capital of France?", "--temperature", "0", "--json"]
    answer = subprocess.run(
        [programs / "edgellama", "generate", str(engine), *question],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Paris" in json.loads(answer.stdout)["text"]
