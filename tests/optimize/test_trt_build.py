"""Engines by TensorRT for RTX from a checkpoint or an export: built, kept, refused, interrupted."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("tensorrt_rtx")

from edgellama.export.to_onnx import export_portable
from edgellama.optimize import make_bundle
from edgellama.optimize.build import build_engine, optimize_portable
from edgellama.optimize.bundle import open_bundle
from edgellama.optimize.pipeline import BuildError
from edgellama.profiles.profile import Profile, ProfileError, load_profile
from edgellama.runtime.load import load_backend
from edgellama.runtime.manifest import EngineError, check_files, file_sha256, read_manifest

TARGETS = ("trt-native", "trt-plain")


def profile(
    weights: str = "int4_rtn", compute: str = "fp16", target: str = "trt-native", **tables: Any
) -> Profile:
    shipped = load_profile("l4-1b")
    precision = replace(
        shipped.precision,
        weights=weights,
        embedding=compute,
        kv=compute,
        compute=compute,
        block_size=32,
    )
    limits = replace(shipped.limits, slots=4, capacity=128, prefill_chunk=16)
    build = replace(shipped.build, target=target, backend="tensorrt-rtx")
    return replace(shipped, precision=precision, limits=limits, build=build, **tables)


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


@pytest.fixture(scope="module")
def portable(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("portable") / "model"
    export_portable(checkpoint, out, dtype="float16")
    return out


@pytest.fixture(scope="module")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine that no test alters."""
    out = tmp_path_factory.mktemp("engines") / "small"
    assert not build_engine(profile(), checkpoint, out).skipped
    return out


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_build_leaves_the_plan_and_no_graph(built: Path) -> None:
    manifest = read_manifest(built)
    check_files(built, manifest)
    assert names(built.parent) == {"small"}
    assert set(manifest.files) == {
        "model.plan",
        "tokenizer.json",
        "generation.json",
        "chat_template.jinja",
    }
    assert manifest.graph == "model.plan"
    assert manifest.verify["graph"]["kernel_kl_mean"] < 1e-4
    assert "plan" in manifest.verify and "perplexity" in manifest.verify["accuracy"]
    assert manifest.build["tensorrt"]["version"] == manifest.versions["tensorrt-rtx"]
    assert manifest.build["seconds"] >= sum(manifest.build["tensorrt"]["seconds"].values())


def test_an_unchanged_engine_is_kept(built: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(built, tmp_path / "engine"))
    before = file_sha256(out / "engine.json")
    again = build_engine(profile(), checkpoint, out)
    assert again.skipped and again.verify == read_manifest(built).verify
    assert file_sha256(out / "engine.json") == before
    assert not build_engine(profile(), checkpoint, out, force=True).skipped
    (out / "model.plan").write_bytes(b"x" + (out / "model.plan").read_bytes()[1:])
    assert not build_engine(profile(), checkpoint, out).skipped, "a damaged plan was kept"


def test_another_version_of_the_library_builds_again(
    built: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan runs on the version that built it; a bundle has none."""
    import tensorrt_rtx

    out, bundle = Path(shutil.copytree(built, tmp_path / "engine")), tmp_path / "bundle"
    build_engine(profile(), checkpoint, bundle, bundle=True)
    monkeypatch.setattr(tensorrt_rtx, "__version__", "1.7.9")
    assert not build_engine(profile(), checkpoint, out).skipped
    assert read_manifest(out).versions["tensorrt-rtx"] == "1.7.9"
    assert build_engine(profile(), checkpoint, out).skipped
    assert build_engine(profile(), checkpoint, bundle, bundle=True).skipped


@pytest.mark.parametrize("target", TARGETS)
def test_an_export_is_built_like_its_checkpoint(
    checkpoint: Path, portable: Path, tmp_path: Path, target: str
) -> None:
    wanted = profile(target=target)
    engine = optimize_portable(wanted, portable, tmp_path / "engine").engine
    manifest = read_manifest(engine)
    check_files(engine, manifest)
    assert manifest.verify["graph"]["kernel_kl_mean"] < 1e-4
    folder = tmp_path / "bundle"
    optimize_portable(wanted, portable, folder, bundle=True)
    given = open_bundle(folder)
    assert optimize_portable(wanted, portable, folder, bundle=True).skipped
    traced = build_engine(wanted, checkpoint, tmp_path / "traced", bundle=True).engine
    assert open_bundle(traced).inputs == given.inputs == manifest.inputs
    assert open_bundle(traced).outputs == given.outputs == manifest.outputs


@pytest.mark.parametrize(
    ("dtype", "wanted", "message"),
    [
        ("float32", profile(), r"exported as FLOAT; precision\.compute is 'fp16': .*dtype float16"),
        ("bfloat16", profile(), r"exported as BFLOAT16; .* export with --dtype float16"),
        ("float16", profile(compute="bf16"), r"compute is 'bf16', which ONNX Runtime cannot run"),
        ("bfloat16", profile(compute="bf16"), r"use `edgellama build` with the checkpoint"),
    ],
)
def test_an_export_that_cannot_be_built_is_refused(
    checkpoint: Path, tmp_path: Path, dtype: str, wanted: Profile, message: str
) -> None:
    folder, told = tmp_path / "model", list[str]()
    export_portable(checkpoint, folder, dtype=dtype)
    for bundle in (False, True):
        with pytest.raises(BuildError, match=message):
            optimize_portable(
                wanted,
                folder,
                tmp_path / "out",
                progress=lambda stage, *_: told.append(stage),
                bundle=bundle,
            )
    assert set(told) <= {"trace"} and names(tmp_path) == {"model"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_chunk_is_not_longer_than_a_slot(checkpoint: Path, tmp_path: Path, target: str) -> None:
    """The shipped limits on a model of 128 positions: a slot holds less than a chunk."""
    wanted = replace(profile(target=target), limits=load_profile("l4-1b").limits)
    manifest = read_manifest(build_engine(wanted, checkpoint, tmp_path / "engine").engine)
    assert manifest.kv.capacity == 128 < wanted.limits.prefill_chunk < wanted.limits.capacity
    axes = manifest.build["tensorrt"]["optimization_profiles"]["prefill"]
    assert axes["sequence"] == [1, 128, 128]


def test_an_engine_does_not_run_without_its_gpu(built: Path) -> None:
    from edgellama.optimize.tensorrt.preflight import local_gpu

    try:
        local_gpu()
    except BuildError:
        with pytest.raises(EngineError, match=r"CUDA"):
            load_backend(built, read_manifest(built))
    else:
        pytest.skip("a GPU is here")


@pytest.mark.parametrize("bundle", [False, True])
def test_what_does_not_fit_is_refused_before_the_trace(
    checkpoint: Path, tmp_path: Path, bundle: bool
) -> None:
    told: list[object] = []
    for wanted, message in (
        (profile(device=replace(profile().device, memory_gib=1e-4)), "GiB"),
        (replace(profile(), precision=replace(profile().precision, weights="fp32")), "fp32"),
    ):
        with pytest.raises(ProfileError, match=message):
            build_engine(
                wanted,
                checkpoint,
                tmp_path / "out",
                bundle=bundle,
                progress=lambda *state: told.append(state),
            )
    assert told == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bundle", [False, True])
def test_too_small_a_disk_is_refused_before_the_trace(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: bool
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1 << 20))
    told: list[object] = []
    with pytest.raises(OSError, match=r"needs 0\.\d+ GB at .*out, where 0\.00 GB are free"):
        build_engine(
            profile(),
            checkpoint,
            tmp_path / "out",
            bundle=bundle,
            progress=lambda *state: told.append(state),
        )
    assert told == [] and list(tmp_path.iterdir()) == []


# Every file of the process is cut there: what a disk that fills up during the work does.
FULL = """
import resource, sys
from edgellama.cli.__main__ import main
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
main(sys.argv[2:])
"""


@pytest.mark.parametrize(("limit", "writes"), [(50_000, "the weights"), (1_000_000, "the plan")])
def test_a_disk_that_fills_up_leaves_nothing(
    checkpoint: Path, tmp_path: Path, limit: int, writes: str
) -> None:
    out = tmp_path / "engines"
    out.mkdir()
    options = ["--backend", "tensorrt-rtx", "--block-size", "32", "--slots", "4"]
    build = ["build", "l4-1b", "--model", str(checkpoint), *options, "--capacity", "128"]
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(limit), *build, "--out", str(out / "small")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, f"{writes}: {done.stderr}"
    assert done.stderr.startswith("error: ") and "File too large" in done.stderr, done.stderr
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("bundle", [False, True])
def test_a_failed_verification_writes_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: bool
) -> None:
    monkeypatch.setattr(make_bundle, "verification_fault", lambda *_: "planted")
    with pytest.raises(BuildError, match="graph failed verification: planted; nothing was written"):
        build_engine(profile(), checkpoint, tmp_path / "out", bundle=bundle)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_build_keeps_the_old_engine(
    built: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(built, tmp_path / "engine"))
    before = read_manifest(out)

    def interrupt(stage: str, _done: int, _total: int) -> None:
        if stage == "build plan":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(profile("fp16"), checkpoint, out, progress=interrupt)
    check_files(out, read_manifest(out))
    assert read_manifest(out) == before and names(tmp_path) == {"engine"}


# A build in a process of its own that says when it has come to a stage, and waits to be killed.
WAITING = """
import sys, time
from contextlib import contextmanager
import edgellama.cli.progress as shown

@contextmanager
def waiting():
    def show(stage, done, total):
        if stage == sys.argv[1]:
            print("here", flush=True)
            time.sleep(60)
    yield show

shown.progress = waiting
from edgellama.cli.__main__ import main
main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("write weights", ["--bundle"]),
        ("verify", ["--bundle"]),
        ("build plan", ["--backend", "tensorrt-rtx"]),
    ],
)
def test_a_killed_build_leaves_only_what_the_next_removes(
    checkpoint: Path, tmp_path: Path, stage: str, options: list[str]
) -> None:
    out = tmp_path / "small"
    small = ["--block-size", "32", "--slots", "4", "--capacity", "128"]
    build = ["build", "l4-1b", "--model", str(checkpoint), "--out", str(out), *small, *options]
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, stage, *build], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert names(tmp_path) == {f".small.staging-{process.pid}"}
    done = subprocess.run(
        [sys.executable, "-m", "edgellama.cli", *build], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == {"small"}
    if "--bundle" in options:
        open_bundle(out)
    else:
        check_files(out, read_manifest(out))
