"""Real models with narrow caches: the plugin's graph loses what the calibrated model loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("modelopt")

import onnx_ir as ir
from target_graph import TracedOnce, precision_of, small_profile, write_graph

from edgellama.calibration.calibrate import calibrate
from edgellama.calibration.documents import read_documents
from edgellama.calibration.recipe import Recipe
from edgellama.calibration.samples import draw_samples
from edgellama.export.checkpoint import open_checkpoint
from edgellama.optimize.accuracy import AccuracyMeasurement, MeasuredAccuracy, Sample, Scorer
from edgellama.optimize.engine_files import write_text_files
from edgellama.optimize.portable_session import Past, PortableSession
from edgellama.optimize.quantization import Quantization
from edgellama.optimize.target_session import TargetSession
from edgellama.runtime.backend import Logits
from edgellama.runtime.text import TextCodec

pytestmark = pytest.mark.slow
SPLIT = "<|endoftext|>"
LENGTH, CALIBRATED, STORIES, CHUNK = 256, 4096, 24, 64


class PortableScorer:
    """A portable graph that is fed in chunks, one sequence after another."""

    def __init__(self, session: PortableSession) -> None:
        self._session = session
        self._past: Past = []

    def run_tokens(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """Feed `tokens` at `start`; 0 begins another sequence."""
        if start == 0:
            self._past = self._session.empty_past()
        ids = np.array([tokens], np.int64)
        logits, self._past = self._session.run(ids, start, self._past)
        return logits[0]


def held_out(codec: TextCodec, path: Path) -> list[Sample]:
    """The first stories of a text, each behind its BOS and cut at a slot's length."""
    bos = codec.generation.bos_id
    assert bos is not None
    samples = []
    for document in islice(read_documents(path, SPLIT), STORIES):
        assert document.text is not None
        ids = codec.encode(document.text.strip(), add_special_tokens=False)
        samples.append(Sample((bos, *ids)[:LENGTH], 1))
    return samples


def measure(scorer: Scorer, samples: list[Sample], exact: list[Logits]) -> MeasuredAccuracy:
    """Compare with the logits of the float model, one array a sample."""
    measurement = AccuracyMeasurement(scorer, samples, CHUNK)
    for index, logits in enumerate(exact):
        measurement.add(index, logits)
    return measurement.result()


@pytest.mark.parametrize("kv", ["int8", "fp8"])
@pytest.mark.parametrize("name", ["babyllama105", "stories260k"])
def test_the_plugin_loses_what_calibration_reports(
    shared_data: Path, tmp_path: Path, name: str, kv: str
) -> None:
    """Scales are measured on one half of TinyStories, losses on the other."""
    folder, text = shared_data / name, shared_data / "text"
    write_text_files(folder, tmp_path)
    codec = TextCodec.load(tmp_path)
    calibration = text / "tinystories_calib.txt"
    drawn = draw_samples(
        read_documents(calibration, SPLIT),
        codec,
        source=calibration.name,
        tokens=CALIBRATED,
        length=LENGTH,
        seed=1,
    )
    recipe = Recipe(kv=kv, granularity="channel", capacity=LENGTH)
    scales = calibrate(open_checkpoint(folder), recipe, drawn, tmp_path / "scales")
    source = TracedOnce(folder)
    narrow = replace(precision_of("fp32"), kv=kv)

    def portable(kind: str, quantization: Quantization) -> PortableSession:
        ir.save(source.graph(quantization), tmp_path / f"{kind}.onnx")
        return PortableSession(tmp_path / f"{kind}.onnx", source.model)

    samples = held_out(codec, text / "tinystories_eval.txt")
    model = portable("float", Quantization(precision_of("fp32")))
    exact = [model.logits(sample.ids) for sample in samples]
    calibrated = portable("portable", Quantization(narrow, scales))
    profile = small_profile("trt-plugin", narrow, slots=1, capacity=LENGTH)
    kv_layout = write_graph(source, tmp_path / "target", profile, scales).kv
    target = TargetSession(tmp_path / "target" / "model.onnx", kv_layout, source.model.vocab_size)

    wanted = measure(PortableScorer(calibrated), samples, exact)
    found = measure(target, samples, exact)
    print(f"\n{name}, {kv}, scales of {drawn.tokens} tokens, {found.tokens} held out:")
    for kind, lost in (("portable", wanted), ("plugin", found)):
        more = 100 * lost.perplexity_increase
        print(
            f"  {kind}: {lost.kl_mean:.3e} nats, perplexity {lost.perplexity:.4f} ({more:+.3f} %)"
        )
    print(f"  float: perplexity {found.reference_perplexity:.4f}")
    assert 0 < wanted.kl_mean < 0.05
    assert found.kl_mean <= 1.1 * wanted.kl_mean + 1e-6
