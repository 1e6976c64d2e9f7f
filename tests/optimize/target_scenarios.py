"""What serving does with a graph for TensorRT, each time with its error against transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaForCausalLM

from edgellama.optimize.target_session import TargetSession
from edgellama.runtime.step import DecodeRow, PrefillChunk, Step

Logits = npt.NDArray[np.float32]
SLOTS, CAPACITY, CHUNK = 5, 48, 7
# Lengths that differ, and one that fills its slot.
SEQUENCES = tuple(
    tuple(int(i) for i in np.random.default_rng(seed).integers(0, 256, length))
    for seed, length in enumerate((CAPACITY, 31, 20, 13, 40))
)
# What no sequence wrote must not matter. NaN would matter in any runtime: a masked position has
# the weight 0, and 0 x NaN is NaN. So the cache begins with numbers that are far off but finite, as
# the remains of another sequence are. ONNX Runtime's mask of float16 is an addition of -65504: the
# scores of what it hides must stay well below that.
POISON = {"float32": 1e4, "float16": 100.0}


class Reference:
    """The logits [length, vocab] of the sequences by transformers in float32."""

    def __init__(self, checkpoint: Path) -> None:
        self._model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.logits = [self.of(ids) for ids in SEQUENCES]
        self.largest = max(float(np.abs(logits).max()) for logits in self.logits)

    def of(self, ids: Sequence[int]) -> Logits:
        """Return the logits of any ids."""
        with torch.no_grad():
            return np.asarray(self._model(torch.tensor([list(ids)])).logits[0].numpy(), np.float32)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """Return what it generates past every stop id."""
        ids = list(prompt)
        for _ in range(count):
            ids.append(int(self.of(ids)[-1].argmax()))
        return ids[len(prompt) :]


def poison(session: TargetSession) -> TargetSession:
    """Fill the whole pool with `POISON`."""
    for slot in range(session.slots):
        for view in session.cache(slot, session.capacity).values():
            view[:] = POISON[view.dtype.name]
    return session


def feed(session: TargetSession, slot: int, ids: Sequence[int], chunk: int) -> Logits:
    """Prefill ids in chunks; returns the logits of all of them."""
    starts = range(0, len(ids), chunk)
    return np.concatenate(
        [session.run_tokens(slot, ids[start : start + chunk], start) for start in starts]
    )


def whole(session: TargetSession) -> list[tuple[int, int, Logits]]:
    """One prefill of a whole prompt, as long as its slot."""
    return [(0, 0, session.run_tokens(1, SEQUENCES[0], 0))]


def chunks(session: TargetSession) -> list[tuple[int, int, Logits]]:
    """A prefill in chunks, the last of them shorter."""
    return [(1, 0, feed(session, 3, SEQUENCES[1], CHUNK))]


def ragged(session: TargetSession) -> list[tuple[int, int, Logits]]:
    """Decode in slots that are not neighbours, at lengths that differ, idle rows between them,
    beside the chunks of another prompt."""
    running = {1: 0, 2: 2, 4: 3}  # slot -> sequence
    lengths = [0, 9, 3, 0, 6]
    for slot, index in running.items():
        feed(session, slot, SEQUENCES[index][: lengths[slot]], CHUNK)
    prompt, prompted = SEQUENCES[1], 0
    found = []
    for _ in range(7):
        rows = tuple(
            DecodeRow(slot, SEQUENCES[index][lengths[slot]], lengths[slot])
            for slot, index in running.items()
        )
        piece = prompt[prompted : prompted + CHUNK]
        last = prompted + len(piece) == len(prompt)
        part = PrefillChunk(0, piece, prompted, last) if piece else None
        logits = session.run(Step(rows, part, tuple(lengths)))
        for row, drawn in zip(rows, logits, strict=False):
            found.append((running[row.slot], row.position, drawn[None].copy()))
            lengths[row.slot] += 1
        if piece:
            prompted += len(piece)
            lengths[0] = prompted
            if last:
                found.append((1, prompted - 1, logits[-1:].copy()))
    assert prompted == len(prompt)
    return found


def reuse(session: TargetSession) -> list[tuple[int, int, Logits]]:
    """A short sequence in a slot that a longer one has left."""
    feed(session, 2, SEQUENCES[4], 40)
    found = [(3, 0, feed(session, 2, SEQUENCES[3][:6], CHUNK))]
    for position in range(6, len(SEQUENCES[3])):
        row = DecodeRow(2, SEQUENCES[3][position], position)
        step = Step((row,), None, (0, 0, position, 0, 0))
        found.append((3, position, session.run(step).copy()))
    return found


SCENARIOS: Mapping[str, Callable[[TargetSession], list[tuple[int, int, Logits]]]] = {
    "whole": whole,
    "chunks": chunks,
    "ragged": ragged,
    "reuse": reuse,
}


def error_of(scenario: str, session: TargetSession, reference: Reference) -> float:
    """Return the largest error of a scenario as a share of the largest logit; NaN counts as inf."""
    worst = 0.0
    for index, first, logits in SCENARIOS[scenario](poison(session)):
        theirs = reference.logits[index][first : first + len(logits)]
        error = float(np.abs(logits - theirs).max()) / reference.largest
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst


def continue_greedily(
    session: TargetSession, slot: int, prompt: Sequence[int], count: int
) -> list[int]:
    """Generate in one slot by the steps that serving takes."""
    ids = list(prompt)
    logits = feed(session, slot, ids, CHUNK)
    while len(ids) < len(prompt) + count:
        ids.append(int(logits[-1].argmax()))
        lengths = [0] * session.slots
        lengths[slot] = len(ids) - 1
        if len(ids) < len(prompt) + count:
            row = DecodeRow(slot, ids[-1], lengths[slot])
            logits = session.run(Step((row,), None, tuple(lengths)))
    return ids[len(prompt) :]
