"""The short evaluation inside a build: by hand, in pieces, and in the pass of the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from edgellama.export.checkpoint import open_checkpoint
from edgellama.export.reference import as_stored, reference_logits
from edgellama.optimize.accuracy import (
    TOKENS,
    AccuracyMeasurement,
    MeasuredAccuracy,
    Sample,
    accuracy_fault,
    accuracy_samples,
)
from edgellama.profiles.profile import Accuracy
from edgellama.runtime.request import Sampling
from edgellama.runtime.text import GenerationConfig, TextCodec

IDS = (3, 1, 4, 1, 5, 9, 2, 6)


class Table:
    """A model whose next-token logits depend on the last token alone; `noise` makes it another."""

    def __init__(self, noise: float = 0.0) -> None:
        draw = np.random.default_rng(5)
        self.table = draw.normal(size=(10, 10)).astype(np.float32)
        self.table += noise * draw.normal(size=(10, 10)).astype(np.float32)
        self.length = 0

    def run_tokens(self, slot: int, tokens: Sequence[int], start: int) -> npt.NDArray[np.float32]:
        assert slot == 0 and start in (0, self.length)
        self.length = start + len(tokens)
        return self.table[list(tokens)]


def measure(engine: Table, samples: list[Sample], chunk: int = 3) -> MeasuredAccuracy:
    measurement = AccuracyMeasurement(engine, samples, chunk)
    for index, ids in enumerate(measurement.sequences):
        measurement.add(index, Table().table[ids])
    return measurement.result()


def test_a_model_has_lost_nothing_against_itself() -> None:
    result = measure(Table(), [Sample(IDS, 1), Sample(IDS[:4], 2)])
    assert result.tokens == 7 + 2
    assert result.perplexity_increase == 0.0 and result.kl_mean == result.kl_p99 == 0.0
    assert result.perplexity == result.reference_perplexity
    assert result.top1_agreement == 1.0


@pytest.mark.parametrize("first", [1, 2, 5, 7])
@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_only_what_is_predicted_counts_however_it_is_cut(first: int, chunk: int) -> None:
    engine = Table(noise=0.5)
    result = measure(engine, [Sample(IDS, first)], chunk)

    def nll(table: npt.NDArray[np.float32]) -> float:
        rows = table.astype(np.float64)
        rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
        picked = [rows[IDS[i - 1], IDS[i]] for i in range(first, len(IDS))]
        return -float(np.mean(picked))

    assert result.tokens == len(IDS) - first
    assert result.perplexity == pytest.approx(math.exp(nll(engine.table)), rel=1e-6)
    assert result.reference_perplexity == pytest.approx(math.exp(nll(Table().table)), rel=1e-6)
    increase = result.perplexity / result.reference_perplexity - 1
    assert result.perplexity_increase == pytest.approx(increase, rel=1e-6)
    assert result.kl_mean > 0


def test_a_loss_beyond_the_limit_is_a_fault() -> None:
    lost = MeasuredAccuracy(100, 10.7, 10.0, 0.07, 0.05, 0.2, 0.9)
    assert accuracy_fault(lost, Accuracy()) is None
    assert accuracy_fault(lost, Accuracy(max_perplexity_increase=0.07)) is None
    fault = accuracy_fault(lost, Accuracy(max_perplexity_increase=0.05))
    assert fault is not None
    assert "7.00 %" in fault and "max_perplexity_increase is 0.05" in fault and "raise" in fault
    broken = replace(lost, perplexity=math.nan, perplexity_increase=math.nan)
    assert accuracy_fault(broken, Accuracy(max_perplexity_increase=0.05)) is not None


def codec_of(folder: Path) -> TextCodec:
    from edgellama.optimize.engine_files import write_text_files

    staging = folder / "codec"
    staging.mkdir()
    write_text_files(folder, staging)
    return TextCodec.load(staging)


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


@pytest.fixture(scope="module")
def codec(checkpoint: Path) -> TextCodec:
    return codec_of(checkpoint)


@pytest.mark.parametrize("capacity", [16, 96, 4096])
def test_the_samples_fit_the_capacity_and_the_budget(codec: TextCodec, capacity: int) -> None:
    samples = accuracy_samples(codec, capacity)
    lengths = [len(sample.ids) for sample in samples]
    assert max(lengths) <= capacity and sum(lengths) <= TOKENS
    assert all(0 < sample.first < len(sample.ids) for sample in samples)


def test_dialogues_count_their_answers_only(codec: TextCodec) -> None:
    story, dialogue, *_ = accuracy_samples(codec, 400)
    assert story.first == 1 and codec.decode(story.ids).startswith("Once upon a time")
    asked = codec.decode(dialogue.ids[: dialogue.first])
    assert asked.endswith("?[assistant]")
    assert "Lisbon" in codec.decode(dialogue.ids[dialogue.first :])


def test_a_model_without_a_template_has_no_dialogue(codec: TextCodec) -> None:
    plain = TextCodec(codec._tokenizer, GenerationConfig(None, (), Sampling(), {}), None)
    samples = accuracy_samples(plain, 4096)
    assert samples and all(sample.first == 1 for sample in samples)
    assert codec.decode(samples[0].ids).startswith("Once upon a time")


def test_streamed_sequences_are_those_of_a_pass_of_their_own(checkpoint: Path) -> None:
    """They change nothing of the others, and come in order, one at a time."""
    opened = open_checkpoint(checkpoint)
    kept, streamed = [list(range(30, 50))], [[256, 1, 2, 3], list(range(60, 90))]
    found: list[tuple[int, npt.NDArray[np.float32]]] = []
    (logits,) = reference_logits(
        opened, kept, None, (as_stored,), streamed, lambda i, rows: found.append((i, rows))
    )
    (alone,) = reference_logits(opened, [*kept, *streamed])
    np.testing.assert_allclose(logits[0], alone[0], atol=1e-5)
    assert [index for index, _ in found] == [0, 1]
    for (_, rows), wanted in zip(found, alone[1:], strict=True):
        assert rows.shape == wanted.shape
        np.testing.assert_allclose(rows, wanted, atol=1e-5)
