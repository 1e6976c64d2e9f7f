"""A model without weights whose every token depends on all before it, and its tokenizer."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgellama.runtime.request import Sampling
from edgellama.runtime.step import PrefixRestore, PrefixSave, SlotCopy, Step
from edgellama.runtime.text import GenerationConfig, TextCodec

VOCAB, EOS, CAPACITY, CHUNK, WAIT = 258, 257, 96, 8, 5.0


class HistoryBackend:
    """The next token depends on all tokens of the slot; the model leans to few letters and an end.

    `gate` lets a test hold it before a step. Behind token `poison` the logits are NaN.
    """

    vocab_size, capacity, run_seconds = VOCAB, CAPACITY, 0.0
    token_bytes = 1 << 14  # 64 tokens are a MiB

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.gate = threading.Event()
        self.gate.set()
        self.poison: int | None = None
        self.steps: list[Step] = []
        self.saved: dict[int, npt.NDArray[np.int64]] = {}
        self._cache = np.zeros((slots, CAPACITY), np.int64)

    def run(self, step: Step) -> npt.NDArray[np.float32]:
        assert self.gate.wait(WAIT)
        self.steps.append(step)
        for copy in step.copies:
            if isinstance(copy, SlotCopy):
                self._cache[copy.target, : copy.length] = self._cache[copy.source, : copy.length]
            elif isinstance(copy, PrefixSave):
                self.saved[copy.entry] = self._cache[copy.slot, : copy.length].copy()
            elif isinstance(copy, PrefixRestore):
                self._cache[copy.slot, : copy.length] = self.saved[copy.entry][: copy.length]
            else:
                del self.saved[copy.entry]
        rows = [self._feed(row.slot, (row.token,), row.position) for row in step.decode]
        if step.prefill is not None:
            logits = self._feed(step.prefill.slot, step.prefill.tokens, step.prefill.start)
            rows += [logits] * step.prefill.is_last
        return np.array(rows, np.float32).reshape(-1, VOCAB)

    def run_tokens(
        self, slot: int, tokens: list[int], start: int, *, is_pinned: bool = False
    ) -> npt.NDArray[np.float32]:
        assert self.gate.wait(WAIT)
        rows = [self._feed(slot, (token,), start + i) for i, token in enumerate(tokens)]
        return np.array(rows, np.float32)

    def _feed(self, slot: int, tokens: tuple[int, ...], start: int) -> npt.NDArray[np.float64]:
        end = start + len(tokens)
        self._cache[slot, start:end] = tokens
        logits = np.random.default_rng(self._cache[slot, :end]).standard_normal(VOCAB)
        logits[64:72] += 5.0
        logits[EOS] += 3.0
        return logits * np.nan if tokens[-1] == self.poison else logits

    def close(self) -> None:
        pass


def byte_codec() -> TextCodec:
    """A byte a token; nothing begins a text, and EOS ends it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    return TextCodec(tokenizer, GenerationConfig(256, (EOS,), Sampling(), {}), None)
