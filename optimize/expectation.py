"""What the model says to a few texts: kept with a bundle, so that a device can check its engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.optimize.accuracy_text import TEXTS
from edgellama.optimize.error import BuildError
from edgellama.runtime.text import TextCodec

EXPECTATION_NAME = "expected.npz"
Logits = npt.NDArray[np.float32]
# Tokens of each text: lengths that differ, so that a decode over all of them is ragged. Few,
# because the logits of a Llama 3 take half a megabyte a token.
LENGTHS = (40, 25, 33)


@dataclass(frozen=True, eq=False)
class Expectation:
    """Sequences of ids, and the logits float32 [length, vocab] of each: the float model's, and
    those of the model with the weights as the engine stores them."""

    sequences: tuple[tuple[int, ...], ...]
    reference: tuple[Logits, ...]
    stored: tuple[Logits, ...]

    def save(self, folder: Path) -> None:
        """Write `expected.npz`; logits lose what float16 cannot hold, a thousandth of each."""
        arrays: dict[str, Any] = {}
        for index, ids in enumerate(self.sequences):
            arrays[f"ids.{index}"] = np.array(ids, np.int64)
            arrays[f"reference.{index}"] = self.reference[index].astype(np.float16)
            if self.stored[index] is not self.reference[index]:
                arrays[f"stored.{index}"] = self.stored[index].astype(np.float16)
        np.savez(folder / EXPECTATION_NAME, **arrays)


def expected_sequences(codec: TextCodec, capacity: int) -> list[list[int]]:
    """Return the texts as ids, cut to `LENGTHS`; raises BuildError where a slot is too small."""
    if capacity < 2:
        raise BuildError(f"limits.capacity is {capacity}; a slot must hold 2 tokens at least")
    bos = codec.generation.bos_id
    sequences = []
    for text, length in zip(TEXTS, LENGTHS, strict=False):
        ids = codec.encode(text, add_special_tokens=False)
        sequences.append([*([] if bos is None else [bos]), *ids][: min(length, capacity)])
    return sequences


def load_expectation(folder: Path) -> Expectation:
    """Read what `save` wrote; the files of the folder have been checked before."""
    with np.load(folder / EXPECTATION_NAME, allow_pickle=False) as arrays:
        count = sum(1 for name in arrays.files if name.startswith("ids."))
        sequences, reference, stored = [], [], []
        for index in range(count):
            sequences.append(tuple(int(i) for i in arrays[f"ids.{index}"]))
            reference.append(arrays[f"reference.{index}"].astype(np.float32))
            name = f"stored.{index}"
            stored.append(
                arrays[name].astype(np.float32) if name in arrays.files else reference[-1]
            )
    return Expectation(tuple(sequences), tuple(reference), tuple(stored))
