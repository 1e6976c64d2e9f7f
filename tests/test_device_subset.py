"""The folders that run on a device are Python 3.10."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellama.runtime.manifest import check_files, read_manifest

RTX = ["--backend", "tensorrt-rtx"]
ROOT = Path(__file__).resolve().parent.parent
# `cli` and `benchmark` too: `edgellama serve` and `bench` run on the device.
FOLDERS = ("profiles", "runtime", "grpc_service", "cli", "benchmark", "optimize/tensorrt")
FINISH = "optimize/finish.py"  # what `edgellama finish` runs: it builds a plan there
# The packages of the workstation; a device has none of them, and not this package's compilers.
ABSENT = (
    "torch",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "transformers",
    "safetensors",
    "ml_dtypes",
    "huggingface_hub",
    "modelopt",
)


def with_imports(first: str) -> set[Path]:
    """Return a file and all files of edgellama that it imports, at any depth."""
    found: set[Path] = set()
    waiting = [ROOT / first]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgellama."):
                waiting.append(ROOT.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py"))
    return found


FILES = sorted(
    {path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")} | with_imports(FINISH)
)


def make_bundle(model: str, out: str) -> None:
    """Write a small bundle for the L4, as the workstation does."""
    small = ["--block-size", "32", "--slots", "2", "--capacity", "64"]
    verb = ["build", "l4-1b", "--model", model, "--out", out, "--bundle", "--json", *small]
    subprocess.run([sys.executable, "-m", "edgellama.cli", *verb], capture_output=True, check=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_syntax_is_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 10))


def test_finish_needs_a_few_files_of_the_compiler() -> None:
    """A walk that found nothing would prove nothing."""
    names = {path.relative_to(ROOT).as_posix() for path in with_imports(FINISH)}
    assert {"optimize/tensorrt_builder.py", "export/stage.py", "runtime/trt.py"} < names
    assert not {"optimize/build.py", "optimize/make_bundle.py", "optimize/source.py"} & names


@pytest.mark.parametrize(
    "modules",
    [
        ["edgellama.optimize.finish", "edgellama.cli.finish"],
        ["edgellama.cli.inspect", "edgellama.runtime.load", "edgellama.runtime.trt"],
        ["edgellama.cli.serve", "edgellama.grpc_service.server", "edgellama.runtime.engine"],
    ],
    ids=["finish", "inspect", "serve"],
)
def test_a_device_imports_no_compiler(modules: list[str]) -> None:
    imports = "\n".join(f"import {module}" for module in modules)
    code = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n{imports}\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# None in `sys.modules` makes `import` raise.
DEVICE = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
from edgellama.cli.__main__ import main
main(sys.argv[2:])
"""


def test_a_device_finishes_and_inspects_without_the_compiler(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle, engine = str(tmp_path / "bundle"), str(tmp_path / "engine")
    make_bundle(str(make_checkpoint()), bundle)
    for verb in (["finish", bundle, "--out", engine, *RTX], ["inspect", engine]):
        done = subprocess.run(
            [sys.executable, "-c", DEVICE, ",".join(ABSENT), *verb, "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["engine"] == engine


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


def install(tmp_path: Path, extra: str) -> Path:
    """Install the base package with one extra in a new 3.10; returns the folder of programs."""
    sources, programs = tmp_path / "sources", tmp_path / "venv" / "bin"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "engines", "tests", "*.egg-info")
    shutil.copytree(ROOT, sources, ignore=ignored)  # pip leaves a build folder in the sources
    subprocess.run([python_3_10(), "-m", "venv", str(tmp_path / "venv")], check=True)
    wanted = [programs / "python", "-m", "pip", "install", "-q", f"{sources}[{extra}]"]
    subprocess.run(wanted, cwd=tmp_path, check=True)
    listed = subprocess.run(
        [programs / "python", "-m", "pip", "list", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {package["name"] for package in json.loads(listed.stdout)}
    assert not names & {"torch", "transformers", "onnx", "safetensors"}
    return programs


@pytest.mark.slow
def test_python_3_10_finishes_a_bundle(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """The base package and TensorRT for RTX alone, with a bundle that was made elsewhere."""
    python_3_10()
    bundle, engine = tmp_path / "bundle", tmp_path / "engine"
    make_bundle(str(make_checkpoint()), str(bundle))
    programs = install(tmp_path, "tensorrt-rtx")
    done = subprocess.run(
        [programs / "edgellama", "finish", bundle, "--out", engine, *RTX, "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["verify"]) == {"graph", "accuracy", "plan"}
    check_files(engine, read_manifest(engine))


@pytest.mark.slow
def test_python_3_10_runs_an_engine(tmp_path: Path) -> None:
    """Install the base package and a runtime alone, and ask an engine that was built elsewhere."""
    python_3_10()
    engine = tmp_path / "engine"
    build = [sys.executable, "-m", "edgellama.cli", "build", "cpu-tiny", "--out", str(engine)]
    subprocess.run([*build, "--json"], capture_output=True, check=True)
    programs = install(tmp_path, "cpu")
    question = ["--chat", "What is the capital of France?", "--temperature", "0", "--json"]
    answer = subprocess.run(
        [programs / "edgellama", "generate", str(engine), *question],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Paris" in json.loads(answer.stdout)["text"]
