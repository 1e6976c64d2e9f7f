"""The checks that make bundles and engines, with the real compilers."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgellama.benchmark import gpu_build, gpu_numerics
from edgellama.benchmark.check import Job
from edgellama.benchmark.gpu_agreement import compare_engines
from edgellama.benchmark.gpu_checks import CHECKS
from edgellama.benchmark.gpu_subjects import Wish, subjects_of
from edgellama.benchmark.outcome import CheckFailed, CheckSkipped
from edgellama.benchmark.subject import Subject
from edgellama.benchmark.verify_gpu import verify_gpu
from edgellama.profiles.profile import load_profile
from edgellama.runtime.manifest import Manifest, write_manifest

sys.path.insert(0, str(Path(__file__).parent))

from planted_checks import PLANTED, silent


@pytest.fixture(autouse=True)
def _planted_checks_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.mark.parametrize(
    ("first", "second", "fault"),
    [
        ((0, 50), (50, 50), None),
        ((0, 0), (0, 0), "the first build left an empty timing cache"),
        ((0, 50), (0, 50), "the second build read 0 bytes of timing cache, the first one had"),
        ((0, 50), (50, 60), "the timing cache grew from 50 to 60 bytes"),
    ],
)
def test_the_second_build_must_use_the_cache(
    first: tuple[int, int], second: tuple[int, int], fault: str | None
) -> None:
    given_, found = (
        {"reason": None, "bytes_before": low, "bytes_after": high} for low, high in (first, second)
    )
    told = gpu_build.timing_cache_fault(given_, found)
    assert told is None if fault is None else told is not None and fault in told
    assert gpu_build.timing_cache_fault({**given_, "reason": "none here"}, found) is None


@pytest.mark.slow
def test_an_engine_that_was_not_run_is_no_proof(tmp_path: Path) -> None:
    """The real compiler of TensorRT for RTX, where no GPU can run what it builds."""
    pytest.importorskip("tensorrt_rtx")
    from edgellama.benchmark.gpu_bundle import check_bundle

    subject = subjects_of(Wish(profiles=("l4-1b",)), PLANTED)[1]
    made = check_bundle(Job(tmp_path, subject))
    assert made["bytes"] > 0 and "graph" in made["verify"]
    with pytest.raises(CheckFailed, match="was built and not verified: not run: ") as failure:
        gpu_build.check_build(Job(tmp_path, subject))
    figures = failure.value.figures
    assert figures["plan_bytes"] > 0 and figures["peak_rss_bytes"] > 0 and figures["seconds"] > 0
    assert figures["timing_cache"]["reason"] is not None
    given_ = Subject("given", subject.profile, bundle=subject.bundle_folder(tmp_path))
    assert check_bundle(Job(tmp_path, given_))["bytes"] == made["bytes"]


@pytest.mark.slow
def test_the_whole_table_where_a_gpu_is_claimed_and_there_is_none(tmp_path: Path) -> None:
    """Real bundles and plans in real processes; what needs a device fails, the rest waits."""
    pytest.importorskip("tensorrt_rtx")
    table = [replace(CHECKS[0], run="planted_checks:workstation"), *CHECKS[1:]]
    wish = Wish(profiles=("l4-1b",))
    found = verify_gpu(wish, tmp_path, progress=silent, checks=table)
    states = {(o.check, o.subject): (o.state, o.reason) for o in found.outcomes}
    assert states["cuda", ""][0] == "failed" and "cudaGetDeviceCount" in states["cuda", ""][1]
    for subject in subjects_of(wish, PLANTED):
        name = subject.name
        if subject.profile.build.backend == "tensorrt":
            assert states["build", name] == ("skipped", "module tensorrt cannot be imported")
            continue
        assert states["bundle", name] == ("passed", "")
        state, reason = states["build", name]
        assert state == "failed" and reason.startswith("the engine was built and not verified")
        assert states["serving", name] == ("skipped", f"check build of {name} failed")


@pytest.mark.slow
def test_all_targets_pass_on_the_graphs_themselves(tmp_path: Path) -> None:
    """The checks on what TensorRT is given, run by ONNX Runtime on a CPU."""
    from edgellama.benchmark.gpu_bundle import check_bundle, checkpoint_folder
    from edgellama.optimize.bundle import open_bundle
    from edgellama.optimize.expectation import load_expectation
    from edgellama.optimize.target_session import TargetSession

    def load(folder: Path, manifest: Manifest) -> Any:
        return TargetSession(folder / manifest.graph, manifest.kv, manifest.model.vocab_size)

    proofs = [s for s in subjects_of(Wish(profiles=("l4-1b",)), PLANTED) if "proof" in s.name][:3]
    for subject in proofs:
        check_bundle(Job(tmp_path, subject))
        folder = subject.bundle_folder(tmp_path)
        manifest = open_bundle(folder)
        given_ = load_expectation(folder)
        (folder / "bundle.sha256").unlink()
        (folder / "bundle.json").unlink()
        write_manifest(folder, manifest)
        reference = gpu_numerics.transformers_reference(checkpoint_folder(subject, tmp_path))
        found = gpu_numerics.check_engine(folder, given_, reference, load)
        assert found["greedy"]["same"] == found["greedy"]["tokens"] == 3 * 24
    native, plugin, plain = (subject.bundle_folder(tmp_path) for subject in proofs)
    assert [proof.twin for proof in proofs] == [None, proofs[0].name, proofs[1].name]
    for one, other, names in (
        (plugin, native, ["trt-plugin", "trt-native"]),
        (plain, plugin, ["trt-plain", "trt-plugin"]),
    ):
        agreed = compare_engines(one, other, given_, load)
        assert agreed["targets"] == names
        assert agreed["largest_difference"] < 2e-3


@pytest.mark.slow
def test_a_profile_that_cannot_have_the_model_is_skipped_by_its_rule(tmp_path: Path) -> None:
    from edgellama.benchmark.gpu_bundle import check_bundle

    profile = replace(
        load_profile("l4-1b"), device=replace(load_profile("l4-1b").device, memory_gib=0.001)
    )
    with pytest.raises(CheckSkipped, match="rule memory"):
        check_bundle(Job(tmp_path, Subject("small", profile, model="tiny")))


def test_the_sizes_are_those_of_the_random_weights() -> None:
    pytest.importorskip("torch")
    from edgellama.cli.verify_gpu import SIZES
    from edgellama.examples.random_llama import SIZES as written

    assert set(SIZES) == set(written)
