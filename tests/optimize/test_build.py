"""A build is whole, verified, reused when nothing changed, and refused before the work."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from edgellama.export.to_onnx import export_portable
from edgellama.optimize import build, write_graph
from edgellama.optimize.build import build_engine, optimize_portable
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.quantize import QuantizedRows
from edgellama.optimize.verify import Verification, verification_fault
from edgellama.profiles.profile import Precision, Profile, ProfileError, load_profile
from edgellama.runtime.engine import Engine
from edgellama.runtime.manifest import EngineError, check_files, read_manifest
from edgellama.runtime.request import Request, Sampling, Stop

# Mean divergence from the float32 reference, in nats, of a random two-layer model.
KL_BARS = {"fp32": 1e-8, "fp16": 1e-4, "int8": 5e-3}


def profile(weights: str = "fp32", embedding: str = "fp32", block_size: int = 32) -> Profile:
    base = load_profile("cpu-tiny")
    return replace(
        base,
        precision=replace(
            base.precision, weights=weights, embedding=embedding, block_size=block_size
        ),
        limits=replace(base.limits, slots=3, capacity=96, prefill_chunk=16),
    )


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint(tie_word_embeddings=False, intermediate_size=80)


@pytest.fixture(scope="module")
def portable(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("portable") / "model"
    export_portable(checkpoint, out)
    return out


def test_a_build_from_the_checkpoint_verifies_and_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    report = build_engine(profile(), checkpoint, out)
    assert not report.skipped
    assert report.verify["greedy_agreement"] == report.verify["top1_agreement"] == 1.0
    assert report.verify["kl_mean"] < KL_BARS["fp32"]
    manifest = read_manifest(out)
    check_files(out, manifest)
    assert manifest.verify == report.verify
    assert set(manifest.files) == {
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
        "generation.json",
        "chat_template.jinja",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]
    again = build_engine(profile(), checkpoint, out)
    assert again.skipped and again.verify == report.verify
    data = out / "model.onnx.data"
    data.write_bytes(b"x" + data.read_bytes()[1:])
    assert not build_engine(profile(), checkpoint, out).skipped, "a damaged engine was kept"


@pytest.mark.parametrize(
    ("weights", "embedding", "block_size"),
    [
        ("fp32", "fp32", 32),
        ("fp16", "fp16", 32),
        ("int8", "int8", 32),
        ("int8", "fp16", 128),  # one padded block a row
        ("int4_rtn", "int4_rtn", 32),
        ("int4_rtn", "int8", 64),
        ("int4_rtn", "fp32", 128),
        ("fp32", "fp16", 32),
        ("fp32", "int8", 32),
        ("fp16", "int4_rtn", 32),
    ],
)
def test_every_precision_builds_runs_and_reports(
    portable: Path, tmp_path: Path, weights: str, embedding: str, block_size: int
) -> None:
    wanted = profile(weights, embedding, block_size)
    report = optimize_portable(wanted, portable, tmp_path / "engine")
    bar = max(KL_BARS.get(kind, 2.0) for kind in (weights, embedding))
    assert 0 <= report.verify["kl_mean"] < bar
    assert 0 <= report.verify["kernel_kl_mean"] < 0.01
    with Engine.load(tmp_path / "engine") as engine:
        request = Request((256, 65, 66), Sampling(temperature=0), Stop(max_new_tokens=8))
        assert engine.generate(request).usage.output_tokens >= 1


def test_smaller_weights_make_a_smaller_engine(portable: Path, tmp_path: Path) -> None:
    sizes = [
        optimize_portable(profile(name, name), portable, tmp_path / name).bytes
        for name in ("fp32", "fp16", "int8", "int4_rtn")
    ]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4


def test_what_does_not_fit_is_refused_before_the_trace(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the trace was started")

    monkeypatch.setattr("edgellama.optimize.source.portable_model", never)
    small = profile()
    small = replace(small, device=replace(small.device, memory_gib=0.0001))
    with pytest.raises(ProfileError, match=r"device\.memory_gib"):
        build_engine(small, checkpoint, tmp_path / "engine")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_engine_is_not_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BuildError, match="is not an engine"):
        build_engine(profile(), checkpoint, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "engine.json").write_text("{}")  # an engine, but not only
    with pytest.raises(BuildError, match=r"holds notes\.txt"):
        build_engine(profile(), checkpoint, tmp_path)
    (tmp_path / "notes.txt").rename(tmp_path / "model.onnx")
    (tmp_path / "engine.json").unlink()
    with pytest.raises(BuildError, match=r"no engine\.json"):
        build_engine(profile(), checkpoint, tmp_path)
    assert (tmp_path / "model.onnx").read_text() == "mine"


def test_a_failed_verification_writes_nothing(
    portable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "verification_fault", lambda *_: "planted")
    with pytest.raises(BuildError, match="failed verification: planted"):
        optimize_portable(profile(), portable, tmp_path / "engine")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_build_keeps_the_old_engine(
    portable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "engine"
    optimize_portable(profile(), portable, out)
    before = read_manifest(out)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write_graph, "save_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        optimize_portable(profile("int8", "int8"), portable, out)
    check_files(out, read_manifest(out))
    assert read_manifest(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_the_same_input_gives_the_same_bytes(portable: Path, tmp_path: Path) -> None:
    first = optimize_portable(profile("int4_rtn", "int8"), portable, tmp_path / "a")
    second = optimize_portable(profile("int4_rtn", "int8"), portable, tmp_path / "b")
    assert read_manifest(first.engine).files == read_manifest(second.engine).files


def test_a_build_leaves_no_weight_in_memory(portable: Path, tmp_path: Path) -> None:
    assert not optimize_portable(profile("int8", "int8"), portable, tmp_path / "engine").skipped
    gc.collect()
    assert not [item for item in gc.get_objects() if type(item) is QuantizedRows]


def test_an_altered_engine_is_refused_by_name(portable: Path, tmp_path: Path) -> None:
    out = optimize_portable(profile(), portable, tmp_path / "engine").engine
    path = out / "generation.json"
    path.write_text(path.read_text().replace("257", "255"))
    with pytest.raises(EngineError, match=r"generation\.json was altered"):
        Engine.load(out)
    path.unlink()
    with pytest.raises(EngineError, match=r"generation\.json is missing"):
        Engine.load(out)


def test_a_foreign_graph_is_not_a_source(tmp_path: Path, portable: Path) -> None:
    with pytest.raises(BuildError, match=r"no model\.onnx"):
        optimize_portable(profile(), tmp_path, tmp_path / "engine")
    import onnx

    model = onnx.load(portable / "model.onnx", load_external_data=False)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BuildError, match=r"metadata edgellama\.config is missing"):
        optimize_portable(profile(), tmp_path, tmp_path / "engine")


def test_a_damaged_export_is_refused_before_the_work(portable: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(portable, copy)
    data = copy / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-5000])
    with pytest.raises(BuildError, match=r"model\.onnx\.data has .* export again"):
        optimize_portable(profile(), copy, tmp_path / "engine")
    data.unlink()
    with pytest.raises(BuildError, match="has 0 bytes"):
        optimize_portable(profile(), copy, tmp_path / "engine")
    (copy / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(BuildError, match="is not an ONNX model"):
        optimize_portable(profile(), copy, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_a_half_export_is_refused_by_the_cpu_target(checkpoint: Path, tmp_path: Path) -> None:
    export_portable(checkpoint, tmp_path / "half", dtype="float16")
    with pytest.raises(BuildError, match="--dtype float32"):
        optimize_portable(profile(), tmp_path / "half", tmp_path / "engine")


def test_the_manifest_tells_sizes_tools_and_the_plan(portable: Path, tmp_path: Path) -> None:
    report = optimize_portable(profile("int8", "int8"), portable, tmp_path / "engine")
    raw = json.loads((report.engine / "engine.json").read_text())
    assert raw["schema_version"] == 3
    assert raw["bytes"] == report.bytes == sum(f["bytes"] for f in raw["files"].values())
    assert {"onnxruntime", "torch", "edgellama"} <= raw["versions"].keys()
    assert raw["build"]["plan"]["fits"] is True
    assert raw["kv"] == {
        "layers": 2,
        "kv_heads": 2,
        "head_dim": 16,
        "slots": 3,
        "capacity": 96,
        "dtype": "float32",
    }
    weights = raw["build"]["plan"]["weight_bytes"]
    assert abs(raw["files"]["model.onnx.data"]["bytes"] - weights) < 0.2 * weights + 20000


def test_the_bar_of_float_engines() -> None:
    good = Verification(1, 10, 1.0, 1.0, 0.0, 0.0, 0.0, 1e-5, 10.0)
    coarse = replace(good, max_abs_logit_error=0.1)  # between the two bars
    bad = replace(good, max_abs_logit_error=1.0)

    def fault(result: Verification, *kinds: str) -> str:
        return str(verification_fault(result, Precision(*kinds, kv="fp32")))

    for kinds in (("fp32", "fp32"), ("fp32", "fp16"), ("fp16", "fp32"), ("int8", "fp32")):
        assert fault(good, *kinds) == "None"
    assert "limit for fp32" in fault(coarse, "fp32", "fp32")
    for kinds in (("fp32", "fp16"), ("fp16", "fp32"), ("fp16", "fp16")):
        assert fault(coarse, *kinds) == "None"
        assert "limit for fp16" in fault(bad, *kinds)
    for kinds in (("fp32", "int8"), ("int4_rtn", "fp32")):  # reported, not judged
        assert fault(bad, *kinds) == "None"
        assert "from its own weights" in fault(replace(good, kernel_kl_mean=0.2), *kinds)
    for name in ("kl_mean", "kernel_kl_mean", "max_abs_logit_error"):
        assert "NaN" in fault(replace(good, **{name: float("nan")}), "int8", "int8")
