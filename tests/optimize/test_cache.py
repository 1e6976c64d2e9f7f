"""The int8 cache: scales that hold at every position, and engines that use them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")


from edgellama.optimize.build import build_engine
from edgellama.profiles.plan import make_plan
from edgellama.profiles.profile import Profile, load_profile
from edgellama.runtime.completion import Completion
from edgellama.runtime.engine import Engine
from edgellama.runtime.manifest import read_manifest
from edgellama.runtime.request import Request, Sampling, Stop

LAYERS, KV_HEADS, HEAD_DIM = 2, 2, 16


def profile(kv: str, weights: str = "fp32") -> Profile:
    base = load_profile("cpu-tiny")
    precision = replace(base.precision, weights=weights, embedding=weights, kv=kv)
    return replace(base, precision=precision, limits=replace(base.limits, capacity=96))


@pytest.fixture(scope="module")
def engines(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder, checkpoint = tmp_path_factory.mktemp("engines"), make_checkpoint()
    return {
        kv: build_engine(profile(kv), checkpoint, folder / kv).engine for kv in ("fp32", "int8")
    }


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
