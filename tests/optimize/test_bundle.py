"""A bundle is whole, sealed, moved and finished; an altered byte anywhere in it is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from gptq_checkpoint import gptq

pytest.importorskip("torch")
pytest.importorskip("tensorrt_rtx")

from edgellama.optimize.build import build_engine
from edgellama.optimize.bundle import BUNDLE, BUNDLE_FILES, open_bundle, seal_bundle
from edgellama.optimize.engine_folder import ENGINE_FILES
from edgellama.optimize.expectation import LENGTHS, load_expectation
from edgellama.optimize.fingerprint import unchanged
from edgellama.optimize.finish import finish_bundle, keep_weights
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.quantization import Given
from edgellama.profiles.profile import Profile, ProfileError, load_profile
from edgellama.runtime.manifest import EngineError, check_files, file_sha256, read_manifest

RTX = "tensorrt-rtx"
# What every bundle of a model with a chat template holds, besides its own two files.
WRITTEN = {
    "model.onnx",
    "model.onnx.data",
    "expected.npz",
    "tokenizer.json",
    "generation.json",
    "chat_template.jinja",
}


def profile(weights: str = "int4_rtn", compute: str = "fp16", **tables: Any) -> Profile:
    """The L4's profile for a small model; the backend is still TensorRT, which is not here."""
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
    calibration = replace(shipped.calibration, tokens=128, length=64, awq="awq_lite")
    return replace(shipped, precision=precision, limits=limits, calibration=calibration, **tables)


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that no test alters."""
    out = tmp_path_factory.mktemp("bundles") / "small"
    build_engine(profile(), checkpoint, out, bundle=True)
    return out


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy in another folder."""
    return Path(shutil.copytree(made, tmp_path / "moved"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundle_has_all_that_a_device_needs(made: Path) -> None:
    manifest = open_bundle(made)
    assert set(manifest.files) == WRITTEN
    assert set(files_of(made)) == WRITTEN | {"bundle.json", "bundle.sha256"} < set(BUNDLE_FILES)
    assert [path.name for path in made.parent.iterdir()] == ["small"], "nothing else is left"
    assert manifest.profile == profile()
    assert manifest.graph == "model.onnx" and not set(manifest.versions) & {"tensorrt", RTX}
    graph = manifest.verify["graph"]
    assert graph["kernel_kl_mean"] < 1e-4 and graph["positions"] == sum(LENGTHS)
    assert manifest.verify["accuracy"]["kl_mean"] >= 0
    assert "plan" not in manifest.verify
    expected = load_expectation(made)
    assert tuple(map(len, expected.sequences)) == LENGTHS
    shapes = [(length, manifest.model.vocab_size) for length in LENGTHS]
    assert [logits.shape for logits in expected.reference] == shapes
    assert all(a is not b for a, b in zip(expected.reference, expected.stored, strict=True))


def test_a_moved_bundle_is_finished_there(made: Path, bundle: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    out = tmp_path / "engine"
    before = files_of(bundle)
    report = finish_bundle(bundle, out, backend=RTX, progress=lambda *state: told.append(state))
    assert files_of(bundle) == before
    assert {path.name for path in tmp_path.iterdir()} == {"moved", "engine"}
    given, manifest = open_bundle(made), read_manifest(out)
    check_files(out, manifest)
    texts = WRITTEN - {"model.onnx", "model.onnx.data", "expected.npz"}
    assert set(manifest.files) == texts | {"model.plan"}
    assert manifest.graph == "model.plan" and (out / "model.plan").read_bytes()[:4] == b"vtrt"
    assert (manifest.inputs, manifest.outputs, manifest.kv) == (
        given.inputs,
        given.outputs,
        given.kv,
    )
    assert manifest.profile.build.backend == RTX
    assert manifest.versions == {**given.versions, RTX: manifest.versions[RTX]}
    built = manifest.build["tensorrt"]
    assert (built["backend"], built["version"]) == (RTX, manifest.versions[RTX])
    assert built["compute_capability"] == "8.9"
    assert built["layers"]["KV_CACHE_UPDATE"] == 2 * manifest.model.num_layers
    assert list(built["optimization_profiles"]) == ["prefill", "decode"]
    assert built["plan_bytes"] == manifest.files["model.plan"].bytes
    assert manifest.build["plan"] == given.build["plan"]
    assert manifest.build["seconds"] > 0 and manifest.build["peak_rss_bytes"] > 0
    assert manifest.verify == {**given.verify, "plan": manifest.verify["plan"]}
    assert report.verify == manifest.verify and report.bytes == manifest.bytes
    assert told[0][:2] == ("build plan", 0) and told[-1][0] in ("build plan", "verify")


def test_without_a_gpu_it_says_why_the_plan_was_not_run(bundle: Path, tmp_path: Path) -> None:
    from edgellama.optimize.tensorrt.preflight import local_gpu

    try:
        found = local_gpu()
    except BuildError:
        reason = "not run: this machine shows no GPU"
    else:
        reason = f"not run: this machine's GPU is {found.name}, the engine is for"
        if found.compute_capability == "8.9":
            pytest.skip("the GPU of the profile is here")
    report = finish_bundle(bundle, tmp_path / "engine", backend=RTX)
    assert report.verify["plan"].startswith(reason)


PLACES = ("first", "middle", "last")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", sorted(WRITTEN | {"bundle.json", "bundle.sha256"}))
def test_an_altered_byte_is_refused_by_name(
    bundle: Path, tmp_path: Path, name: str, place: str
) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[{"first": 0, "middle": len(content) // 2, "last": -1}[place]] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(EngineError, match=rf"moved.*{name}.*write the bundle again, or copy it"):
        finish_bundle(bundle, tmp_path / "engine", backend=RTX)
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


def test_every_byte_of_the_two_files_without_a_record_counts(bundle: Path) -> None:
    """The manifest and its seal have no other record."""
    for name, step in (("bundle.sha256", 1), ("bundle.json", 13)):
        whole = (bundle / name).read_bytes()
        for place in range(0, len(whole), step):
            for bit in (1, 0x20):  # 0x20: another case of a letter, as hexadecimal digits have
                altered = bytearray(whole)
                altered[place] ^= bit
                (bundle / name).write_bytes(altered)
                with pytest.raises(EngineError, match=name):
                    open_bundle(bundle)
        (bundle / name).write_bytes(whole)
    open_bundle(bundle)


@pytest.mark.parametrize("name", sorted(WRITTEN | {"bundle.json", "bundle.sha256"}))
@pytest.mark.parametrize("change", ["missing", "truncated", "longer", "empty"])
def test_a_missing_or_cut_file_is_refused_by_name(
    bundle: Path, tmp_path: Path, name: str, change: str
) -> None:
    path = bundle / name
    content = path.read_bytes()
    path.unlink()
    if change != "missing":
        kept = {"truncated": content[:-1], "longer": content + b"\n", "empty": b""}
        path.write_bytes(kept[change])
    with pytest.raises(EngineError, match=name):
        finish_bundle(bundle, tmp_path / "engine", backend=RTX)
    assert not (tmp_path / "engine").exists()


def test_an_added_file_or_folder_is_refused_by_name(bundle: Path, tmp_path: Path) -> None:
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(EngineError, match=r"file notes\.txt is not listed in bundle\.json"):
        finish_bundle(bundle, tmp_path / "engine", backend=RTX)
    (bundle / "notes.txt").unlink()
    (bundle / "more").mkdir()
    with pytest.raises(EngineError, match=r"folder more is not listed in bundle\.json"):
        finish_bundle(bundle, tmp_path / "engine", backend=RTX)


def test_an_engine_is_no_bundle_and_a_bundle_no_engine(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    finish_bundle(bundle, out, backend=RTX)
    with pytest.raises(EngineError, match=r"engine is not a bundle: bundle\.json is missing; make"):
        finish_bundle(out, tmp_path / "other", backend=RTX)
    with pytest.raises(EngineError, match=r"moved is not an engine: engine\.json is missing"):
        read_manifest(bundle)
    with pytest.raises(EngineError, match=r"nowhere is not a bundle"):
        finish_bundle(tmp_path / "nowhere", tmp_path / "other", backend=RTX)


def test_where_an_engine_must_not_go(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="is the bundle itself; choose another folder"):
        finish_bundle(bundle, bundle, backend=RTX)
    with pytest.raises(BuildError, match="lies in the bundle"):
        finish_bundle(bundle, bundle / "engine", backend=RTX)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(BuildError, match=r"holds notes\.txt, which no build writes"):
        finish_bundle(bundle, tmp_path / "mine", backend=RTX)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BuildError, match="is a file; an engine is a folder"):
        finish_bundle(bundle, tmp_path / "file", backend=RTX)
    open_bundle(bundle)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_a_bundle_does_not_replace_an_engine_nor_the_reverse(
    checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "engine"
    finish_bundle(bundle, out, backend=RTX)
    with pytest.raises(BuildError, match=r"engine exists and is not a bundle: it holds engine"):
        build_engine(profile(), checkpoint, out, bundle=True)
    with pytest.raises(BuildError, match=r"moved exists and is not an engine: it holds bundle"):
        build_engine(profile(), checkpoint, bundle)
    check_files(out, read_manifest(out))
    open_bundle(bundle)


def test_what_this_machine_cannot_build_is_refused_before_the_parse(
    bundle: Path, tmp_path: Path
) -> None:
    told: list[object] = []

    def finish(backend: str | None) -> None:
        finish_bundle(bundle, tmp_path / "e", backend=backend, progress=lambda *s: told.append(s))

    with pytest.raises(ProfileError, match=r"target is 'trt-native' with build\.backend 'onnx"):
        finish("onnxruntime")
    tight = replace(profile(), device=replace(profile().device, memory_gib=1e-4))
    seal_bundle(bundle, replace(open_bundle(bundle), profile=tight))
    with pytest.raises(ProfileError, match="memory"):
        finish(RTX)
    assert told == [] and [path.name for path in tmp_path.iterdir()] == ["moved"]


def test_the_same_input_gives_the_same_bundle(made: Path, checkpoint: Path, tmp_path: Path) -> None:
    """All of it: the seal, too, is the same (plans differ: NVIDIA's bytes are not reproducible)."""
    again = build_engine(profile(), checkpoint, tmp_path / "again", bundle=True).engine
    for name in ("model.onnx", "model.onnx.data", "bundle.sha256"):
        assert file_sha256(again / name) == file_sha256(made / name), name


def test_an_unchanged_bundle_is_kept(bundle: Path, checkpoint: Path) -> None:
    def build(wanted: Profile | None = None, *, force: bool = False) -> bool:
        wanted = wanted or profile()
        return build_engine(wanted, checkpoint, bundle, bundle=True, force=force).skipped

    assert build()
    assert not build(force=True)
    digest = open_bundle(bundle).fingerprint
    assert unchanged(bundle, digest, BUNDLE) == open_bundle(bundle)
    assert unchanged(bundle, digest.upper(), BUNDLE) is None
    for name in ("model.onnx.data", "bundle.sha256", "bundle.json"):
        whole = (bundle / name).read_bytes()
        (bundle / name).write_bytes(b"x" + whole[1:])
        assert unchanged(bundle, digest, BUNDLE) is None, f"an altered {name} was kept"
        (bundle / name).write_bytes(whole)
    assert not build(replace(profile(), limits=replace(profile().limits, slots=2)))
    assert open_bundle(bundle).kv.slots == 2


def test_bfloat16_says_why_the_graph_was_not_run(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    build_engine(profile("bf16", "bf16"), checkpoint, out, bundle=True)
    manifest = open_bundle(out)
    reason = "not run: ONNX Runtime has no bfloat16 operators on a CPU"
    assert manifest.verify == {"graph": reason}
    assert manifest.kv.dtype == "bfloat16"
    assert tuple(map(len, load_expectation(out).sequences)) == LENGTHS, "the device can compare"
    engine = finish_bundle(out, tmp_path / "engine", backend=RTX)
    assert engine.verify["graph"] == reason


def test_a_bound_that_cannot_be_checked_is_refused_before_the_trace(
    checkpoint: Path, tmp_path: Path
) -> None:
    told: list[object] = []
    bound = replace(profile().accuracy, max_perplexity_increase=0.5)
    with pytest.raises(BuildError, match=r"max_perplexity_increase is 0\.5, which cannot be check"):
        build_engine(
            profile("bf16", "bf16", accuracy=bound),
            checkpoint,
            tmp_path / "bundle",
            bundle=True,
            progress=lambda *state: told.append(state),
        )
    assert told == [] and list(tmp_path.iterdir()) == []


def test_a_bound_that_is_missed_leaves_no_bundle(checkpoint: Path, tmp_path: Path) -> None:
    bound = replace(profile().accuracy, max_perplexity_increase=1e-6)
    with pytest.raises(BuildError, match="perplexity"):
        build_engine(profile(accuracy=bound), checkpoint, tmp_path / "b", bundle=True)
    assert list(tmp_path.iterdir()) == []


def test_the_scales_of_a_calibrated_precision_go_along(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    build_engine(profile("int4_awq"), checkpoint, out, bundle=True)
    manifest = open_bundle(out)
    assert set(manifest.files) == WRITTEN | {"scales.json", "scales.safetensors"}
    measured = tmp_path / "bundle.scales"
    for name in ("scales.json", "scales.safetensors"):
        assert (out / name).read_bytes() == (measured / name).read_bytes()
    recorded = json.loads((out / "scales.json").read_text())
    assert manifest.build["quantization"]["scales"] == recorded
    given = Given(out)  # the copy serves another build
    again = build_engine(profile("int4_awq"), checkpoint, tmp_path / "b", bundle=True, given=given)
    assert open_bundle(again.engine).files == manifest.files
    assert not (tmp_path / "b.scales").exists()
    engine = finish_bundle(out, tmp_path / "engine", backend=RTX).engine
    assert not {"scales.json", "scales.safetensors"} & set(read_manifest(engine).files)


def test_a_quantised_checkpoint_keeps_its_codes(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint()
    codes = gptq(folder)
    out, stale = tmp_path / "bundle", tmp_path / "bundle.scales"
    stale.mkdir()
    for name in ("scales.json", "scales.safetensors"):
        (stale / name).write_text("of another build")
    exact = Given(exact=True)
    build_engine(profile("int4_awq"), folder, out, bundle=True, given=exact)
    manifest = open_bundle(out)
    assert set(manifest.files) == WRITTEN, "another build's scales were taken along"
    assert manifest.build["quantization"] == {"checkpoint": "gptq, int4_awq, blocks of 32"}
    held = [
        tensor.numpy()
        for value in ir.load(out / "model.onnx").graph.initializers.values()
        if (tensor := value.const_value) is not None and tensor.dtype == ir.DataType.INT4
    ]
    assert all(each.dtype == ml_dtypes.int4 for each in held)
    columns = {column.tobytes() for each in held for column in each.astype(np.int8).T}
    for name, code in codes.items():  # [outputs, inputs]; packed linears lie side by side
        missing = sum(row.tobytes() not in columns for row in code)
        assert not missing, f"{missing} outputs of {name} have other codes"


def test_a_stripped_plan_keeps_the_weights_beside_it(made: Path, tmp_path: Path) -> None:
    """Such a plan is not built without a GPU; what goes along is asked for by itself."""
    keep_weights(made, tmp_path, profile())
    assert list(tmp_path.iterdir()) == []
    knobs = replace(load_profile("l4-1b").tensorrt, strip_plan=True, refit="refit_identical")  # type: ignore[type-var]
    keep_weights(made, tmp_path, profile(tensorrt=knobs))
    held = {path.name: file_sha256(path) for path in tmp_path.iterdir()}
    recorded = open_bundle(made).files
    assert held == {name: recorded[name].sha256 for name in ("model.onnx", "model.onnx.data")}
    assert set(held) < set(ENGINE_FILES), "the next build may replace such an engine"


def test_a_profile_of_onnx_runtime_has_no_bundle(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cpu-tiny.*'onnxruntime'.*leave --bundle out"):
        build_engine(load_profile("cpu-tiny"), checkpoint, tmp_path / "b", bundle=True)
    assert BUNDLE.manifest == "bundle.json" and list(tmp_path.iterdir()) == []
