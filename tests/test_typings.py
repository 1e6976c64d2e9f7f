"""The type stubs of TensorRT: planted faults are found, and the bindings still say the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "tests" / "typings"
STUBS = ROOT / "typings"
# What calls TensorRT, in both of its folders.
CALLERS = ("optimize.tensorrt_builder", "optimize.tensorrt", "runtime.tensorrt_engine")
# Versions besides the committed stub's, whose bindings every caller must fit too.
OLDER = ("10.13.3.9", "10.16.1.11")


def mypy(*arguments: str, cache: Path, stubs: Path | None = None) -> list[str]:
    """Run mypy with the repository's settings; returns the lines that it prints.

    `stubs` is searched before the committed ones; what is said about those themselves is left out.
    """
    subprocess.run(["make", "--silent", ".view"], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(cache), "--no-error-summary"]
    environment = dict(os.environ)
    environment.pop("MYPYPATH", None)
    if stubs is not None:
        environment["MYPYPATH"] = str(stubs)
    done = subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = done.stdout.splitlines()
    return [line for line in lines if stubs is None or not line.startswith(f"{stubs}/")]


def errors(lines: list[str]) -> Counter[tuple[int, str]]:
    """Return the kinds of errors in each line, once each."""
    found = (re.fullmatch(r".*?:(\d+): error: .*\[([\w-]+)\]", line) for line in lines)
    return Counter({(int(each[1]), each[2]): 1 for each in found if each})


def expected(path: Path) -> Counter[tuple[int, str]]:
    """Return the errors that the comments of a sample announce."""
    marks: Counter[tuple[int, str]] = Counter()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if found := re.search(r"# error: ([\w, -]+)$", line):
            marks.update((number, code) for code in found[1].split(", "))
    return marks


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of mypy's own: the repository's belongs to whoever works there."""
    return tmp_path_factory.mktemp("mypy")


def test_every_planted_fault_is_found_in_its_line(cache: Path) -> None:
    path = SAMPLES / "faults.py"
    wanted = expected(path)
    assert len(wanted) > 20
    assert errors(mypy(str(path), cache=cache)) == wanted


def test_nothing_is_said_about_sound_calls(cache: Path) -> None:
    assert mypy(str(SAMPLES / "sound.py"), cache=cache) == []


def test_the_stubs_hold_signatures_only() -> None:
    for path in STUBS.glob("*/__init__.pyi"):
        text = path.read_text(encoding="utf-8")
        assert '"""' not in text, f"{path} has text of NVIDIA's"
        assert re.match(rf"# Signatures of {path.parent.name} \d+\.\d+", text), path


@pytest.mark.slow
def test_the_callers_fit_tensorrt_for_rtx_too(cache: Path, tmp_path: Path) -> None:
    """Check them against its stub under the name of TensorRT's: one code serves both."""
    stub = tmp_path / "tensorrt" / "__init__.pyi"
    stub.parent.mkdir()
    stub.write_bytes((STUBS / "tensorrt_rtx" / "__init__.pyi").read_bytes())
    assert callers(cache, tmp_path) == []


def callers(cache: Path, stubs: Path) -> list[str]:
    """Check what calls TensorRT against other stubs of it."""
    packages = [part for name in CALLERS for part in ("-p", f"edgellama.{name}")]
    return mypy(*packages, cache=cache, stubs=stubs)


def generate(folder: Path, version: str) -> Path:
    """Make stubs of the bindings of a version; skips where they cannot be downloaded."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    tools, bindings = (
        re.search(rf"^{name} := (.*)$", makefile, re.M)[1].split()  # type: ignore[index]
        for name in ("STUB_TOOLS", "STUB_BINDINGS")
    )
    name = "tensorrt-cu13-bindings"
    wheels = [f"{name}=={version}" if each.startswith(name) else each for each in bindings]
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = str(folder / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", *tools, *wheels]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no wheel of {name} {version}: {done.stderr[-200:]}")
    command = [python, "-B", str(STUBS / "generate.py"), str(folder / "stubs")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "stubs"


def committed_version() -> str:
    head = (STUBS / "tensorrt" / "__init__.pyi").read_text(encoding="utf-8")
    found = re.match(r"# Signatures of tensorrt ([\d.]+),", head)
    assert found is not None
    return found[1]


@pytest.mark.slow
def test_the_committed_stubs_are_what_the_wheels_say(tmp_path: Path) -> None:
    made = generate(tmp_path, committed_version())
    for name in ("tensorrt", "tensorrt_rtx"):
        path = Path(name) / "__init__.pyi"
        assert (made / path).read_text() == (STUBS / path).read_text(), "run `make trt-stubs`"


@pytest.mark.slow
@pytest.mark.parametrize("version", OLDER)
def test_the_callers_fit_older_versions_too(version: str, cache: Path, tmp_path: Path) -> None:
    made = generate(tmp_path, version)
    path = SAMPLES / "faults.py"
    found = errors(mypy(str(path), cache=cache, stubs=made))
    assert len(found) < len(expected(path)), "the older stub was not read: it has FP16"
    assert callers(cache, made) == []
