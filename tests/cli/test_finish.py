"""`edgellama build --bundle` and `edgellama finish`: the commands, and what they refuse at once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("tensorrt_rtx")

from edgellama.cli.__main__ import main

SMALL = ["--block-size", "32", "--slots", "4", "--capacity", "96"]
RTX = ["--backend", "tensorrt-rtx"]


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)


def refused(*arguments: str | Path) -> str:
    done = run(*arguments)
    assert done.exit_code == 1 and done.stdout == "", done.output
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return str(done.stderr)


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "small"
    done = run("build", "l4-1b", "--model", checkpoint, "--out", out, "--bundle", *SMALL)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def finished(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    moved = shutil.copytree(made, folder / "moved")
    done = run("finish", moved, "--out", folder / "engine", *RTX, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["engine"] == str(folder / "engine") and not document["skipped"]
    assert set(document["verify"]) == {"graph", "accuracy", "plan"}
    return folder / "engine"


def test_a_bundle_lies_in_bundles_and_its_engine_in_engines(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    built = run("build", "l4-1b", "--model", checkpoint, "--bundle", *SMALL)
    assert built.stdout.startswith("bundle       bundles/l4-1b (built in")
    done = run("finish", "bundles/l4-1b", *RTX)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("engine       engines/l4-1b (built in")
    assert "verify       plan = not run: this machine" in done.stdout
    assert (tmp_path / "engines" / "l4-1b" / "model.plan").is_file()


def test_inspect_shows_a_finished_engine(finished: Path) -> None:
    shown = json.loads(run("inspect", finished, "--json").stdout)
    assert shown["intact"] and shown["graph"] == "model.plan"
    assert shown["profile"]["build"] == {"target": "trt-native", "backend": "tensorrt-rtx"}
    assert "tensorrt-rtx" in shown["versions"]
    text = run("inspect", finished).stdout
    assert "file         model.plan:" in text and "tensorrt.layers" in text
    plan = finished.with_name("copy")
    shutil.copytree(finished, plan)
    (plan / "model.plan").write_bytes(b"x" + (plan / "model.plan").read_bytes()[1:])
    assert "file model.plan was altered" in refused("inspect", plan)


@pytest.mark.parametrize(
    "verb", [["generate", "ENGINE", "--token-ids", "1,2"], ["serve", "ENGINE", "--port", "0"]]
)
def test_an_engine_does_not_run_without_a_gpu(finished: Path, verb: list[str]) -> None:
    """In a process of its own, as a user has it: one line, no traceback, and at once."""
    from edgellama.optimize.error import BuildError
    from edgellama.optimize.tensorrt.preflight import local_gpu

    try:
        local_gpu()
        pytest.skip("a GPU is here")
    except BuildError:
        pass
    arguments = [str(finished) if each == "ENGINE" else each for each in verb]
    done = subprocess.run(
        [sys.executable, "-m", "edgellama.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "CUDA" in done.stderr and "Insufficient" in done.stderr, done.stderr


def test_without_tensorrt_a_build_stops_at_once(tmp_path: Path) -> None:
    """Before torch is imported and anything is downloaded, as the shipped model would be."""
    if find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    verbs = (["build", "l4-1b"], ["optimize", "nowhere", "--profile", "l4-1b", "--out", "engine"])
    for verb in verbs:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "edgellama.cli", *verb],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        seconds = time.monotonic() - began
        lines = done.stderr.splitlines()
        loaded = {line.rpartition("|")[2].strip() for line in lines if "import time:" in line}
        said = [line for line in lines if "import time:" not in line]
        assert done.returncode == 1 and len(said) == 1, said
        assert "install 'edgellama[tensorrt]'" in said[0] and "--bundle" in said[0]
        assert not loaded & {"torch", "onnx", "transformers", "huggingface_hub"}
        assert seconds < 10, "a second or two where nothing else runs"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "cpu-1b", "--bundle"], ["'onnxruntime'", "leave --bundle out"]),
        (["build", "l4-1b", "--bundle", "--out", "mine"], ["notes.txt, which no build writes"]),
        (["build", "l4-1b", *RTX, "--out", "mine"], ["mine exists and is not an engine"]),
        (["build", "l4-1b", *RTX, "--out", "small"], ["is not an engine: it holds bundle.json"]),
        (["build", "h100-8b-fp8", *RTX], ["9.0", "use build.backend 'tensorrt' on the device"]),
        (["build", "l4-1b", "--backend", "onnxruntime"], ["target is 'trt-native'"]),
        (
            ["optimize", "nowhere", "--profile", "cpu-tiny", "--out", "x", "--bundle"],
            ["leave --bundle out"],
        ),
        (
            ["optimize", "nowhere", "--profile", "l4-1b", "--out", "mine", "--bundle"],
            ["notes.txt, which no build writes"],
        ),
        (["finish", "nowhere"], ["nowhere is not a bundle: bundle.json is missing"]),
        (["finish", "small", "--out", "small", *RTX], ["is the bundle itself"]),
        (["finish", "small", "--out", "mine", *RTX], ["notes.txt, which no build writes"]),
        (["finish", "small", "--backend", "onnxruntime"], ["target is 'trt-native'"]),
        (["finish", "altered", *RTX], ["altered", "tokenizer.json was altered"]),
    ],
)
def test_what_is_refused_before_any_work(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: list[str],
) -> None:
    """The models of the profiles are gated on the hub, so an error about one would come late."""
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    shutil.copytree(made, "small")
    shutil.copytree(made, "altered")
    tokenizer = Path("altered/tokenizer.json")
    tokenizer.write_bytes(b"x" + tokenizer.read_bytes()[1:])
    before = sorted(tmp_path.rglob("*"))
    error = refused(*arguments)
    for word in words:
        assert word in error
    assert sorted(tmp_path.rglob("*")) == before


def test_finish_without_tensorrt_says_what_to_install(made: Path, tmp_path: Path) -> None:
    if find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    error = refused("finish", made, "--out", tmp_path / "engine")
    assert "install 'edgellama[tensorrt]'" in error and "JetPack" in error
    assert list(tmp_path.iterdir()) == []


# Each stage of a build in turn gets a real Ctrl-C.
SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import edgellama.cli.progress as shown
from contextlib import contextmanager

@contextmanager
def interrupting():
    def show(stage, done, total):
        if stage == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
    yield show

shown.progress = interrupting
from edgellama.cli.__main__ import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("stage", "verb"),
    [
        ("write weights", "bundle"),
        ("verify", "bundle"),
        ("build plan", "build"),
        ("build plan", "finish"),
    ],
)
def test_ctrl_c_leaves_nothing(
    checkpoint: Path, made: Path, tmp_path: Path, stage: str, verb: str
) -> None:
    arguments = {
        "bundle": ["build", "l4-1b", "--model", str(checkpoint), "--bundle", *SMALL],
        "build": ["build", "l4-1b", "--model", str(checkpoint), *RTX, *SMALL],
        "finish": ["finish", str(made), *RTX],
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, stage, *arguments[verb], "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr == "interrupted\n"
    assert list(tmp_path.iterdir()) == []
