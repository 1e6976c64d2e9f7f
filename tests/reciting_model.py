"""A model that says what it is told to, a byte a token, with the special tokens of Llama 3.1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgellama.runtime.chat import ChatTemplate
from edgellama.runtime.request import Sampling
from edgellama.runtime.step import Step
from edgellama.runtime.text import GenerationConfig, TextCodec

SLOTS, CAPACITY = 4, 4096
BEGIN, END, END_OF_MESSAGE, TAG, VOCAB = 256, 257, 258, 259, 262
SPECIALS = [
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
]
NAMES = {"bos_token": "<|begin_of_text|>"}


class RecitingBackend:
    """Answers one prompt after the other with the next of `answers`, then from the first again.

    Without answers its logits are noise.
    """

    slots, capacity, vocab_size, run_seconds = SLOTS, CAPACITY, VOCAB, 0.0

    def __init__(self) -> None:
        self.answers: list[list[int]] = []
        self._num_prompts = 0  # since it learned
        self._saying: list[list[int]] = [[]] * SLOTS  # the answer of each slot
        self._prompts = [0] * SLOTS  # tokens of each slot's prompt
        self._noise = np.random.default_rng(5)

    def learn(self, *parts: str | int) -> int:
        """Take the only answer in texts and tokens; returns its length."""
        self.answers.clear()
        self._num_prompts = 0
        return self.learn_also(*parts)

    def learn_also(self, *parts: str | int) -> int:
        """Take the answer to the prompt after that of the last one; returns its length."""
        answer: list[int] = []
        for part in parts:
            answer += [part] if isinstance(part, int) else part.encode()
        # Byte-level tokens are in the order of their stand-ins.
        ids = {byte: rank for rank, byte in enumerate(_bytes_in_order())}
        self.answers.append([ids.get(token, token) for token in answer])
        return len(answer)

    def run(self, step: Step) -> npt.NDArray[np.float32]:
        rows = [self._logits(row.slot, row.position + 1) for row in step.decode]
        if step.prefill is not None and step.prefill.is_last:
            length = step.prefill.start + len(step.prefill.tokens)
            self._prompts[step.prefill.slot] = length
            if self.answers:
                answer = self.answers[self._num_prompts % len(self.answers)]
                self._saying[step.prefill.slot] = answer
            self._num_prompts += 1
            rows.append(self._logits(step.prefill.slot, length))
        return np.array(rows, np.float32).reshape(-1, VOCAB)

    def _logits(self, slot: int, position: int) -> npt.NDArray[np.float32]:
        if not self.answers:
            return self._noise.standard_normal(VOCAB).astype(np.float32)
        logits = np.zeros(VOCAB, np.float32)
        logits[self._saying[slot][position - self._prompts[slot]]] = 50.0
        return logits

    def close(self) -> None:
        pass


def _bytes_in_order() -> list[int]:
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return plain + [byte for byte in range(256) if byte not in plain]


def make_codec(template: str | None = None) -> TextCodec:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    # The end of a message is none of its stop ids, as in checkpoints that were made without tools.
    generation = GenerationConfig(BEGIN, (END,), Sampling(temperature=0.0), NAMES)
    return TextCodec(
        tokenizer, generation, None if template is None else ChatTemplate(template, NAMES)
    )
