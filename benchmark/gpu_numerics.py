"""Check `numerics`: an engine on the GPU says what the model says, however it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgellama.benchmark.check import Job
from edgellama.benchmark.gpu_bundle import checkpoint_folder
from edgellama.benchmark.greedy import generate_greedily
from edgellama.benchmark.outcome import CheckFailed
from edgellama.benchmark.replay import (
    DECODE,
    FRESH,
    REUSE,
    differing_parts,
    largest_difference,
    replay,
    require_finite,
)
from edgellama.optimize.expectation import Expectation, load_expectation
from edgellama.optimize.verify import FLOAT_BARS, verification_fault
from edgellama.optimize.verify_expected import verify_expected
from edgellama.profiles.profile import Precision
from edgellama.runtime.backend import Logits, ScoringBackend
from edgellama.runtime.load import load_backend
from edgellama.runtime.manifest import Manifest, check_files, read_manifest

Reference = Callable[[Sequence[Sequence[int]]], Sequence[Logits]]
Load = Callable[[Path, Manifest], ScoringBackend]
PROMPT_TOKENS, NEW_TOKENS = 12, 24
# Activations that are rounded to 8 bits: a difference in the last place may become a whole step.
_COARSE = ("fp8", "int8_sq")


def check_numerics(job: Job) -> dict[str, Any]:
    """Compare with transformers where torch is here, else with what the bundle says it answers."""
    subject = job.engine
    folder = subject.engine_folder(job.work)
    expectation = load_expectation(subject.bundle_folder(job.work))
    reference = None
    if subject.bundle is None:  # the checkpoint, and what reads it, made the bundle here
        reference = transformers_reference(checkpoint_folder(subject, job.work))
    return check_engine(folder, expectation, reference)


def check_engine(
    folder: Path,
    expectation: Expectation,
    reference: Reference | None,
    load: Load = load_backend,
) -> dict[str, Any]:
    """Run one engine directory with CUDA graphs and without; raises CheckFailed, with figures.

    `reference` gives the model's own logits, to judge greedy answers by; None leaves them out.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    precision = manifest.profile.precision
    figures: dict[str, Any] = {}
    with closing(load(folder, with_graphs(manifest, True))) as backend:
        found = _expected(backend, expectation, manifest, figures)
        if reference is not None:
            _greedy(backend, expectation, manifest, reference, figures)
        else:
            figures["greedy"] = "held to the bundle's expectation: there is no checkpoint here"
    with closing(load(folder, with_graphs(manifest, False))) as backend:
        chunk = manifest.profile.limits.prefill_chunk
        without = replay(backend, expectation.sequences, chunk)
    parts = differing_parts(found, without)
    far = largest_difference(found, without)
    figures["cuda_graphs"] = {"exact": not parts, "largest_difference": far}
    # TensorRT for RTX compiles kernels while it runs, so that two runs may use different ones.
    if manifest.profile.build.backend == "tensorrt" and parts:
        raise CheckFailed(
            f"CUDA graphs change {', '.join(parts)}, by {far:.2e} of the largest logit", figures
        )
    _within(far, precision, "the run with CUDA graphs and the one without", figures)
    return figures


def _expected(
    backend: ScoringBackend, expectation: Expectation, manifest: Manifest, figures: dict[str, Any]
) -> dict[str, Logits]:
    """Return the replay, once it and the teacher-forced texts are found right."""
    precision, chunk = manifest.profile.precision, manifest.profile.limits.prefill_chunk
    result = verify_expected(backend, expectation, chunk)
    figures["expectation"] = result.as_dict()
    fault = verification_fault(result, precision)
    if fault is not None:
        raise CheckFailed(fault, figures)
    found = replay(backend, expectation.sequences, chunk)
    require_finite(found)
    reused = np.array_equal(found[REUSE], found[FRESH])
    figures["slot_reuse"] = {"exact": reused}
    if not reused:
        far = float(np.abs(found[REUSE] - found[FRESH]).max())
        raise CheckFailed(f"a reused slot changes the logits of its text by {far:.3g}", figures)
    texts = min(len(expectation.sequences), backend.slots)
    # The same token of the same text, in a batch of all texts and alone.
    batched, alone = found[DECODE][texts - 1 : texts], found["after reuse"]
    far = largest_difference({DECODE: batched}, {DECODE: alone})
    figures["ragged"] = {"largest_difference": far}
    _within(far, precision, "a row of a ragged batch and the same row alone", figures)
    return found


def _greedy(
    backend: ScoringBackend,
    expectation: Expectation,
    manifest: Manifest,
    reference: Reference,
    figures: dict[str, Any],
) -> None:
    """Let the engine continue the texts, and ask the model for its choice at each position."""
    precision, limits = manifest.profile.precision, manifest.profile.limits
    prompts = [list(ids[:PROMPT_TOKENS]) for ids in expectation.sequences]
    room = min(backend.capacity - PROMPT_TOKENS, NEW_TOKENS)
    answers = generate_greedily(
        backend, prompts, max_new_tokens=room, stop_ids=(), chunk=limits.prefill_chunk
    )
    whole = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    far = greedy_gaps(prompts, answers, reference(whole))
    figures["greedy"] = {
        "answers": len(answers),
        "tokens": sum(map(len, answers)),
        "same": sum(map(len, answers)) - len(far),
        "largest_gap": max(far, default=0.0),
    }
    if not is_float(precision):
        return  # rounded weights have a mind of their own; the expectation holds them to it
    bar = FLOAT_BARS[precision.compute]
    if max(far, default=0.0) > bar:
        raise CheckFailed(
            f"{len(far)} greedy tokens are not the model's, one of them by {max(far):.2e} of the "
            f"largest logit; the limit for {precision.compute} is {bar:.0e}",
            figures,
        )


def greedy_gaps(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    reference: Sequence[Logits],
) -> list[float]:
    """Return for each token that is not the reference's choice how far it is from being it.

    The distance is that to the reference's largest logit, as a share of the largest |logit|.
    """
    gaps = []
    for prompt, answer, logits in zip(prompts, answers, reference, strict=True):
        largest = float(np.abs(logits).max())
        for index, token in enumerate(answer):
            row = logits[len(prompt) + index - 1]
            gap = float(row.max() - row[token])
            if gap > 0:
                gaps.append(gap / largest)
    return gaps


def is_float(precision: Precision) -> bool:
    """Whether no weight, table or cache is quantised."""
    return {precision.weights, precision.embedding, precision.kv} <= FLOAT_BARS.keys()


def bar_of(precision: Precision) -> float | None:
    """Return how far two runs of one model may be apart; None where activations are rounded too."""
    return None if precision.weights in _COARSE else FLOAT_BARS[precision.compute]


def _within(far: float, precision: Precision, what: str, figures: dict[str, Any]) -> None:
    bar = bar_of(precision)
    if bar is not None and far > bar:
        raise CheckFailed(
            f"{what} differ by {far:.2e} of the largest logit; the limit for "
            f"{precision.compute} is {bar:.0e}",
            figures,
        )


def with_graphs(manifest: Manifest, cuda_graphs: bool) -> Manifest:
    """Return the manifest with another setting of the runtime: the plan is the same."""
    profile = manifest.profile
    assert profile.tensorrt is not None, "a profile of another backend"
    knobs = replace(profile.tensorrt, cuda_graphs=cuda_graphs)
    return replace(manifest, profile=replace(profile, tensorrt=knobs))


def transformers_reference(folder: Path) -> Reference:
    """Return what asks transformers, in float32, for the logits of sequences."""
    from edgellama.export.checkpoint import open_checkpoint
    from edgellama.export.reference import reference_logits

    checkpoint = open_checkpoint(folder)
    return lambda sequences: reference_logits(checkpoint, sequences)[0]
