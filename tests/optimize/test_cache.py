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
from edgellama.runtime.ort import OrtBackend
from edgellama.runtime.request import Request, Sampling, Stop
from edgellama.runtime.text import TextCodec

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


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("kv", ["fp32", "int8"])
def test_a_prompt_that_lost_its_slot_is_restored(
    engines: dict[str, Path], kv: str, slots: int
) -> None:
    manifest = read_manifest(engines[kv])
    limits = replace(manifest.profile.limits, slots=slots, prefix_store_mib=1)
    prompts = [(256, *((40 + 7 * i + 13 * n) % 200 for i in range(59))) for n in range(4)]
    requests = [
        Request(prompt, Sampling(temperature=0.0), Stop(max_new_tokens=12, ignore_eos=True))
        for prompt in prompts
    ]
    codec = TextCodec.load(engines[kv])
    with Engine(OrtBackend.load(engines[kv], manifest), codec, limits) as engine:
        backend = engine._backend
        assert isinstance(backend, OrtBackend)
        first = engine.generate(requests[0])
        held = len(prompts[0]) + 11  # the last token drawn was never fed
        bytes_of_it = {name: a.copy() for name, a in backend.cache(0, held).items()}
        solo = [first, *(engine.generate(one) for one in requests[1:])]
        assert not any(answer.usage.cached_prompt_tokens for answer in solo)
        before = engine.stats()
        again = engine.generate(requests[0])
        after = engine.stats()
        assert again.token_ids == first.token_ids
        assert again.usage.cached_prompt_tokens == 59
        assert after.prompt_tokens - before.prompt_tokens == 1, "the last token of the prompt"
        assert after.restored_tokens == 59
        per_token = manifest.kv.bytes_per_token
        assert before.stored_bytes == (len(prompts) - slots) * held * per_token
        assert after.stored_bytes == before.stored_bytes + held * per_token
        for name, restored in backend.cache(0, 59).items():
            assert (restored == bytes_of_it[name][:, :59]).all(), name
        # Longer than what is stored of it, and that whole.
        turn = replace(requests[1], prompt_ids=(*prompts[1], *solo[1].token_ids, 65, 66))
        answer = engine.generate(turn)
        assert answer.usage.cached_prompt_tokens == held
    with Engine.load(engines[kv]) as alone:
        assert alone.generate(turn).token_ids == answer.token_ids
        assert alone.stats().stored_bytes == alone.stats().restored_tokens == 0


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
