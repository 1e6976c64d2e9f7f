"""The int8 cache: scales that hold at every position, and engines that use them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnx_ir as ir

from edgellama.calibration.cache import calibrate_cache, calibration_ids, radius
from edgellama.export.to_onnx import export_portable
from edgellama.optimize.build import optimize_portable
from edgellama.optimize.passes.quantize_cache import quantize_cache
from edgellama.profiles.plan import make_plan
from edgellama.profiles.profile import Profile, load_profile
from edgellama.runtime.completion import Completion
from edgellama.runtime.engine import Engine
from edgellama.runtime.manifest import read_manifest
from edgellama.runtime.ort import OrtBackend
from edgellama.runtime.request import Request, Sampling, Stop
from edgellama.runtime.text import TextCodec

LAYERS, KV_HEADS, HEAD_DIM = 2, 2, 16


def profile(kv: str, weights: str = "fp32") -> Profile:
    base = load_profile("cpu-tiny")
    precision = replace(base.precision, weights=weights, embedding=weights, kv=kv)
    return replace(base, precision=precision, limits=replace(base.limits, capacity=96))


@pytest.fixture(scope="module")
def portable(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("portable") / "model"
    export_portable(make_checkpoint(), out)
    return out


@pytest.fixture(scope="module")
def engines(portable: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("engines")
    return {
        kv: optimize_portable(profile(kv), portable, folder / kv).engine for kv in ("fp32", "int8")
    }


@given(st.integers(0, 2**32 - 1), st.floats(0, 1000))
def test_the_radius_is_the_same_at_every_position(seed: int, position: float) -> None:
    keys = np.random.default_rng(seed).standard_normal((2, 3, 8)).astype(np.float32)
    angle = position / 10000 ** (np.arange(4) / 4)
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = keys[..., :4], keys[..., 4:]
    turned = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    np.testing.assert_allclose(radius(turned), radius(keys), rtol=1e-4, atol=1e-6)
    assert (np.abs(turned) <= radius(keys) * (1 + 1e-5)).all()


def test_an_engine_with_an_int8_cache(engines: dict[str, Path]) -> None:
    manifest = read_manifest(engines["int8"])
    assert manifest.kv.dtype == "int8"
    assert {t.dtype for t in manifest.inputs if t.name.startswith("past")} == {"int8"}
    assert 0 < manifest.verify["kl_mean"] < 0.01
    assert manifest.verify["kernel_kl_mean"] < 0.01
    float_bytes = read_manifest(engines["fp32"]).kv.bytes_per_token
    assert manifest.kv.bytes_per_token * 4 == float_bytes


def test_the_plan_counts_a_byte_an_element(engines: dict[str, Path]) -> None:
    manifest = read_manifest(engines["int8"])
    small = make_plan(manifest.model, profile("int8"))
    large = make_plan(manifest.model, profile("fp32"))
    assert small.kv_bytes * 4 == large.kv_bytes
    assert small.kv_bytes_per_token == manifest.kv.bytes_per_token


def test_scales_cover_the_calibration_text(engines: dict[str, Path]) -> None:
    directory = engines["fp32"]
    backend = OrtBackend.load(directory, read_manifest(directory))
    samples = calibration_ids(TextCodec.load(directory), backend.capacity)
    scales = calibrate_cache(backend, samples, 16).channels
    assert set(scales) == {f"{n}.{kind}" for n in range(LAYERS) for kind in ("key", "value")}
    for name, cache in backend.cache(0, len(samples[-1])).items():
        largest = np.abs(cache).max(axis=1).reshape(-1)
        assert scales[name].shape == (KV_HEADS * HEAD_DIM,)
        assert (largest <= scales[name] * 127).all()
    again = calibrate_cache(backend, samples, 7).channels
    for name, scale in scales.items():
        np.testing.assert_allclose(again[name], scale, rtol=1e-4)
    with pytest.raises(ValueError, match="no calibration text"):
        calibrate_cache(backend, [], 16)
    backend.close()


def test_the_pass_fires_once_and_refuses_wrong_scales(engines: dict[str, Path]) -> None:
    channels = np.full(KV_HEADS * HEAD_DIM, 0.1, np.float32)
    scales = {f"{n}.{kind}": channels for n in range(LAYERS) for kind in ("key", "value")}
    model = ir.load(engines["fp32"] / "model.onnx")
    assert quantize_cache(model, scales) == LAYERS
    assert quantize_cache(model, scales) == 0
    model = ir.load(engines["fp32"] / "model.onnx")
    with pytest.raises(ValueError, match=r"scales of 0\.key"):
        quantize_cache(model, {**scales, "0.key": channels[:-1]})
    model = ir.load(engines["fp32"] / "model.onnx")
    with pytest.raises(ValueError, match=r"scales of 1\.value"):
        quantize_cache(model, {**scales, "1.value": channels * 0})


def test_concurrent_requests_equal_their_solo_runs(engines: dict[str, Path]) -> None:
    requests = [
        Request(
            (256, *range(40 + i, 44 + 3 * i)),
            Sampling(temperature=0.0 if i % 2 else 0.8, seed=i),
            Stop(max_new_tokens=20 + i, ignore_eos=True),
        )
        for i in range(8)
    ]
    with Engine.load(engines["int8"]) as engine:
        solo = [engine.generate(one).token_ids for one in requests]
        together: list[Completion | None] = [None] * len(requests)

        def run(index: int) -> None:
            together[index] = engine.generate(requests[index])

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(requests))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [answer.token_ids for answer in together if answer is not None] == solo
