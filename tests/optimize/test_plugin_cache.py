"""Narrow caches of target `trt-plugin`: its graph says what the quantised portable model says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnx_ir as ir
from made_scales import make_scales
from numpy_llama import NumpyLlama
from target_graph import TracedOnce, precision_of, small_profile, write_graph

from edgellama.calibration.scales import Scales
from edgellama.optimize.portable_session import PortableSession
from edgellama.optimize.quantization import Quantization
from edgellama.optimize.target_session import TargetSession
from edgellama.profiles.profile import Precision
from edgellama.runtime.divergence import row_divergence
from edgellama.runtime.step import DecodeRow, Step

SLOTS, CAPACITY, TOKENS = 3, 48, 40
CACHES = {"int8": np.int8, "fp8": np.uint8}
caches = pytest.mark.parametrize("kv", CACHES)
granularities = pytest.mark.parametrize("per_tensor", [False, True], ids=["channel", "tensor"])


@dataclass(frozen=True)
class Model:
    """A small random model and ids that its scales are measured on."""

    source: TracedOnce
    llama: NumpyLlama
    ids: list[int]

    def scales(self, kv: str, per_tensor: bool) -> Scales:
        """Return the scales of its caches."""
        return make_scales(self.llama, self.ids, 32, None, kv, per_tensor=per_tensor)


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[..., Path]) -> Model:
    folder = make_checkpoint()
    rng = np.random.default_rng(11)
    llama = NumpyLlama(folder)
    return Model(TracedOnce(folder), llama, rng.integers(0, 256, TOKENS).tolist())


def precision(kv: str) -> Precision:
    return replace(precision_of("fp32"), kv=kv)


def open_target(model: Model, folder: Path, kv: str, scales: Scales) -> TargetSession:
    limits = {"slots": SLOTS, "capacity": CAPACITY}
    profile = small_profile("trt-plugin", precision(kv), **limits)
    manifest = write_graph(model.source, folder, profile, scales)
    return TargetSession(folder / "model.onnx", manifest.kv, manifest.model.vocab_size)


def portable_logits(model: Model, folder: Path, kv: str, scales: Scales) -> np.ndarray:
    """Run the quantised portable graph, which rounds keys and values and joins them to the past."""
    graph = model.source.graph(Quantization(precision(kv), scales))
    ir.save(graph, folder / "portable.onnx")
    session = PortableSession(folder / "portable.onnx", model.source.model)
    return session.logits(model.ids, [17, 1, 13, 9])


@caches
@granularities
def test_a_narrow_cache_says_what_the_portable_model_says(
    model: Model, tmp_path: Path, kv: str, per_tensor: bool
) -> None:
    scales = model.scales(kv, per_tensor)
    wanted = portable_logits(model, tmp_path, kv, scales)
    session = open_target(model, tmp_path / "target", kv, scales)
    said = [session.run_tokens(1, model.ids[:17], 0), session.run_tokens(1, model.ids[17:39], 17)]
    lengths = (0, len(model.ids) - 1, 0)
    last = session.run(Step((DecodeRow(1, model.ids[-1], len(model.ids) - 1),), None, lengths))
    found = np.concatenate([*said, last])
    # A key that lies between two codes may fall to either side, and the tokens behind it see that:
    # it moves far less than the codes cost.
    drift = row_divergence(wanted, found)
    cost = row_divergence(model.llama.logits(model.ids), wanted)
    assert np.median(drift[:17]) <= 1e-10
    assert 20 * np.mean(drift) < np.mean(cost)


@caches
def test_the_cache_holds_codes(model: Model, tmp_path: Path, kv: str) -> None:
    session = open_target(model, tmp_path, kv, model.scales(kv, False))
    session.run_tokens(2, model.ids, 0)
    for name, codes in session.cache(2, TOKENS).items():
        assert codes.dtype == CACHES[kv], name
        assert codes.any()
    for name, codes in session.cache(2, CAPACITY).items():
        assert not codes[:, TOKENS:].any(), f"{name}: written behind the last token"
    for slot in (0, 1):
        assert not any(codes.any() for codes in session.cache(slot, CAPACITY).values())
