"""Which engines a machine is asked to check, and what each check needs of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgellama.benchmark.check import Job, job_from_dict
from edgellama.benchmark.gpu_checks import CHECKS
from edgellama.benchmark.gpu_facts import KERNELS, read_smi
from edgellama.benchmark.gpu_subjects import Wish, shipped_for, subjects_of
from edgellama.benchmark.subject import Subject, subject_from_dict
from edgellama.profiles.bounds import ProfileError
from edgellama.profiles.profile import load_profile

sys.path.insert(0, str(Path(__file__).parent))

from planted_checks import PLANTED


def test_the_profiles_of_a_gpu_small_models_first() -> None:
    assert shipped_for("8.9") == [
        "l4-1b",
        "l4-3b",
        "l4-8b",
        "l4-8b-fp8",
        "l4-8b-kv8",
        "l40s-8b-fp8",
        "rtx4090-8b",
    ]
    assert shipped_for("1.0") == []


def test_proofs_are_made_once_a_float_type_and_library() -> None:
    names = [subject.name for subject in subjects_of(Wish(profiles=("l4-1b", "l4-3b")), PLANTED)]
    assert names == [
        "l4-1b tensorrt",
        "l4-1b tensorrt-rtx",
        "l4-3b tensorrt",
        "l4-3b tensorrt-rtx",
        "proof trt-native fp16 tensorrt 8.9",
        "proof trt-plugin fp16 tensorrt 8.9",
        "proof trt-plain fp16 tensorrt 8.9",
        "proof trt-native fp16 tensorrt-rtx 8.9",
        "proof trt-plain fp16 tensorrt-rtx 8.9",
    ]
    orin = subjects_of(Wish(profiles=("orin-nano-1b",)), PLANTED)
    assert {subject.profile.build.backend for subject in orin} == {"tensorrt"}  # no RTX for it
    assert not any("trt-plugin" in subject.name for subject in orin), "nor plugins in 10.3"
    kv8 = subjects_of(Wish(profiles=("l4-8b-kv8",)), PLANTED)
    assert [subject.name for subject in kv8] == [
        "l4-8b-kv8 tensorrt",
        "proof trt-native fp16 tensorrt 8.9",
        "proof trt-plugin fp16 tensorrt 8.9",
        "proof trt-plain fp16 tensorrt 8.9",
    ]


def test_a_model_of_its_own_keeps_the_limits_of_the_profile() -> None:
    tiny, other, random = (
        subjects_of(Wish(profiles=("l4-1b",), **given), PLANTED)[0]
        for given in ({}, {"model": "/models/x"}, {"size": "1b"})
    )
    assert tiny.profile.limits.slots == 4 and tiny.model == "tiny"
    assert other.profile == random.profile == load_profile("l4-1b")
    assert (other.model, random.size) == ("/models/x", "1b")


def test_a_profile_without_tensorrt_is_refused_by_name() -> None:
    with pytest.raises(ProfileError, match=r"cpu-tiny has build\.backend 'onnxruntime'"):
        subjects_of(Wish(profiles=("cpu-tiny",)), PLANTED)


def test_a_job_survives_its_file() -> None:
    subject = replace(subjects_of(Wish(profiles=("l4-1b",)), PLANTED)[-1], twin="other")
    job = Job(Path("/work"), subject, {"cuda": {"copy_gb_s": 1.5}})
    assert job_from_dict(json.loads(json.dumps(job.as_dict()))) == job
    bundle = Subject("b", subject.profile, bundle=Path("/b"))
    assert subject_from_dict(bundle.as_dict()) == bundle
    with pytest.raises(ValueError, match="give one of model, size and bundle"):
        replace(bundle, model="tiny")


def lacking(check: str, subject: Subject, **facts: Any) -> str:
    row = next(row for row in CHECKS if row.name == check)
    reason = row.lacking(replace(PLANTED, **facts), subject, {})
    assert reason is not None
    return reason


def test_each_need_is_told_in_words() -> None:
    proper, rtx = subjects_of(Wish(profiles=("l4-1b",)), PLANTED)[:2]
    assert lacking("build", proper, gpu=None, no_gpu="no GPU here") == "no GPU here"
    assert "the profile is for NVIDIA L4, compute capability 8.9; this GPU is planted with 9.0" in (
        lacking("build", proper, compute_capability="9.0")
    )
    assert lacking("build", proper, missing={"tensorrt": "not there"}) == "not there"
    old = lacking("build", proper, libraries={"tensorrt": "10.3.0"})
    assert old == "tensorrt.versions is '>=10.16,<12', and tensorrt 10.3.0 is installed"
    no_torch = lacking("bundle", rtx, libraries={"tensorrt-rtx": "1.7.1"})
    assert "package torch, transformers," in no_torch and "'edgellama[compile]'" in no_torch
    # A given bundle needs none of them.
    bundle = Subject("bundle", rtx.profile, bundle=Path("/b"))
    facts = replace(PLANTED, libraries={"tensorrt-rtx": "1.7.1"})
    (row,) = (row for row in CHECKS if row.name == "bundle")
    assert row.lacking(facts, bundle, {}) is None


def test_kernels_need_a_gpu_with_tiles_and_their_packages() -> None:
    (row,) = (row for row in CHECKS if row.name == "kernels")
    gpu = replace(PLANTED, compute_capability="8.9", packages=frozenset(KERNELS))
    assert row.lacking(gpu, None, {}) is None
    older = replace(gpu, compute_capability="7.5")
    assert (
        row.lacking(older, None, {})
        == "the kernels have no tiles for planted, compute capability 7.5"
    )
    bare = replace(gpu, packages=frozenset({"torch"}))
    assert row.lacking(bare, None, {}) == (
        "package triton, ml_dtypes is not installed: install 'edgellama[compile,kernels]'"
    )


def test_scales_need_the_package_that_measures_them() -> None:
    subject = subjects_of(Wish(profiles=("l4-8b-fp8",)), PLANTED)[0]
    packages = frozenset(compiler_packages())
    reason = lacking("bundle", subject, libraries={"tensorrt": "11.4.0"}, packages=packages)
    assert reason.startswith("package modelopt is not installed")
    assert "'edgellama[calibrate]'" in reason


def compiler_packages() -> Sequence[str]:
    from edgellama.benchmark.gpu_facts import COMPILER

    return COMPILER


def test_nvidia_smi_is_read_by_its_own_names() -> None:
    text = "name, clocks.current.sm [MHz], power.draw [W]\nNVIDIA L4, 2040 MHz, [N/A]\n"
    assert read_smi(text) == [{"name": "NVIDIA L4", "clocks.current.sm [MHz]": "2040 MHz"}]
