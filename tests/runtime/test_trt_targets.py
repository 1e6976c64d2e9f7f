"""The graphs that TensorRT is given, behind the whole backend: on the doubles, but really run.

The plan of the double is the target's own graph, so what is compared with the model here is all but
TensorRT itself: passes, interface, staging, cache addresses, buckets and captured graphs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnx_ir as ir
from trt_machine import Machine

from edgellama.optimize.build import build_engine
from edgellama.optimize.bundle import open_bundle
from edgellama.optimize.expectation import load_expectation
from edgellama.optimize.kernels.add_functions import add_functions
from edgellama.optimize.verify_expected import verify_expected
from edgellama.profiles.kernels import Kernels
from edgellama.profiles.profile import Profile, load_profile
from edgellama.runtime.engine import Engine
from edgellama.runtime.manifest import Manifest
from edgellama.runtime.request import Request, Sampling, Stop
from edgellama.runtime.text import TextCodec
from edgellama.runtime.trt import TrtBackend

VERSION = "11.4.0.106"
# Target and cache.
TARGETS = (
    ("trt-native", "fp16"),
    ("trt-plain", "fp16"),
    ("trt-plugin", "fp16"),
    ("trt-plugin", "int8"),
)


def small_profile(target: str, kv: str) -> Profile:
    base = load_profile("l4-1b")
    return replace(
        base,
        build=replace(base.build, target=target),
        kernels=Kernels("cubin") if target == "trt-plugin" else None,
        precision=replace(base.precision, weights="fp16", kv=kv),
        limits=replace(base.limits, slots=4, capacity=128, prefill_chunk=16),
        calibration=replace(base.calibration, tokens=256, length=64),
    )


@pytest.fixture(scope="module", params=TARGETS, ids="-".join)
def bundle(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "-".join(request.param)
    build_engine(small_profile(*request.param), make_checkpoint(), out, bundle=True)
    graph = ir.load(out / "model.onnx")
    add_functions(graph)  # what the plugins are in TensorRT
    plan = tmp_path_factory.mktemp("plans")
    ir.save(ir.external_data.load_to_model(graph), plan / "model.plan", format="protobuf")
    (plan / "bundle").symlink_to(out)
    return plan


@pytest.fixture(autouse=True)
def _libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the doubles after each test."""
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)


def load(plan: Path) -> tuple[Machine, TrtBackend, Manifest]:
    described = open_bundle(plan / "bundle")
    manifest = replace(
        described, graph="model.plan", versions={**described.versions, "tensorrt": VERSION}
    )
    machine = Machine(plan)
    machine.answers.limits = manifest.profile.limits
    return machine, machine.load(manifest), manifest


def test_the_backend_answers_what_the_model_says(bundle: Path) -> None:
    machine, backend, manifest = load(bundle)
    chunk = manifest.profile.limits.prefill_chunk
    result = verify_expected(backend, load_expectation(bundle / "bundle"), chunk)
    backend.close()
    assert machine.cuda.is_empty
    assert result.positions > 60
    if manifest.kv.dtype == "int8":
        # What the codes cost a random model; a key between two of them may fall to either side.
        assert min(result.greedy_agreement, result.top1_agreement) > 0.9
        assert result.kernel_kl_mean < 1e-3
        return
    # Of 98 positions of a random model one or two are ties within float16.
    assert min(result.greedy_agreement, result.top1_agreement) > 0.97
    assert result.kernel_kl_mean < 1e-4
    # Rounding to float16 in every operator: 2^-11, times the depth.
    assert 0 < result.max_abs_logit_error < 1e-2 * result.max_abs_logit


def test_requests_together_equal_each_alone(bundle: Path) -> None:
    machine, backend, manifest = load(bundle)
    stop = Stop(max_new_tokens=12, ignore_eos=True)
    requests = [
        Request((256, *range(40 + i, 45 + 4 * i)), Sampling(temperature=0), stop) for i in range(6)
    ]
    codec = TextCodec.load(bundle / "bundle")
    from edgellama.runtime.completion import Collector

    with Engine(backend, codec, manifest.profile.limits, manifest) as engine:
        alone = [engine.generate(request).token_ids for request in requests]
        collectors = [Collector() for _ in requests]
        for request, collector in zip(requests, collectors, strict=True):
            engine.submit(request, collector)
        assert [collector.result().token_ids for collector in collectors] == alone
    assert machine.cuda.is_empty
