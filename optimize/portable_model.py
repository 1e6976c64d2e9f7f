"""An exported portable model as a model to evaluate: every precision on a CPU, as exported."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellama.export.file_names import GRAPH_NAME
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.portable import read_codec
from edgellama.optimize.portable_session import Past, PortableSession
from edgellama.optimize.quantization import PRECISION_KEY
from edgellama.optimize.source import PortableSource
from edgellama.runtime.ort_session import MAX_THREADS

Logits = npt.NDArray[np.float32]
OnAnswer = Callable[[int, int], None]
_FLOATS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_BATCH = 16
_CHUNK = 128
_LOGITS_AT_ONCE = 1 << 25


class PortableModel:
    """A folder that `edgellama export` wrote, on ONNX Runtime's CPU; one sequence in `slot` 0.

    What the graph says is computed, in float32 where it says so: what the same precision loses in
    an engine of any target comes from the rounding that the two share.
    """

    chunk = _CHUNK

    def __init__(self, folder: Path, source: PortableSource, session: PortableSession) -> None:
        self.name = str(folder)
        self.precision = _precision(session)
        self.size_bytes = sum(file.stat().st_size for file in folder.glob(f"{GRAPH_NAME}*"))
        self.codec = read_codec(folder)
        self.vocab_size = source.model.vocab_size
        self.capacity = source.model.max_position_embeddings
        self._session = session
        self._past: Past = []
        self._length = 0

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None) -> PortableModel:
        """Open an exported folder; raises BuildError when it is none or cannot be run here.

        `threads` None takes all cores.
        """
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise BuildError(f"threads is {threads}; it must be in [1, {MAX_THREADS}]")
        source = PortableSource(folder)
        session = PortableSession(folder / GRAPH_NAME, source.model, threads=threads, prepack=True)
        return cls(folder, source, session)

    def run_tokens(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """Feed `tokens` at `start`, 0 or where the last call ended; float32 `[len(tokens), vocab]`.

        Raises ValueError for another slot or position: there is one sequence, and it only grows.
        """
        if slot != 0 or start not in (0, self._length):
            raise ValueError(f"slot {slot} at {start}; only slot 0 at 0 or {self._length} can run")
        if start == 0:
            self._past = self._session.empty_past()
        logits, self._past = self._session.run(np.array([tokens], np.int64), start, self._past)
        self._length = start + len(tokens)
        return np.asarray(logits[0])

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Collection[int],
        on_answer: OnAnswer | None = None,
    ) -> list[list[int]]:
        """Return the greedy continuation of each prompt, a stop id at its end included.

        Prompts of one length run together, so that no padding is needed.
        Raises BuildError for a prompt without a token or without room for an answer.
        """
        if not all(0 < len(prompt) < self.capacity for prompt in prompts):
            raise BuildError(
                f"{self.name}: prompts must have 1 to {self.capacity - 1} tokens, they have "
                f"{min(map(len, prompts))} to {max(map(len, prompts))}"
            )
        answers: list[list[int]] = [[] for _ in prompts]
        done = 0
        for group in _groups(prompts):
            length = len(prompts[group[0]])
            room = min(max_new_tokens, self.capacity - length)
            ids = np.array([prompts[index] for index in group], np.int64)
            for index, answer in zip(group, self._continue(ids, room, stop_ids), strict=True):
                answers[index] = answer
            done += len(group)
            if on_answer is not None:
                on_answer(done, len(prompts))
        return answers

    def close(self) -> None:
        """Free the weights; the model cannot run afterwards."""
        self._past = []
        del self._session

    def _continue(
        self, ids: npt.NDArray[np.int64], new_tokens: int, stop_ids: Collection[int]
    ) -> list[list[int]]:
        """Continue a batch `[n, length]`; an answer that has ended is fed on and not kept."""
        batch, length = ids.shape
        chunk = max(1, _LOGITS_AT_ONCE // (batch * self.vocab_size))
        past = self._session.empty_past(batch)
        start = 0
        while start < length:
            logits, past = self._session.run(ids[:, start : start + chunk], start, past)
            start = min(start + chunk, length)
        answers: list[list[int]] = [[] for _ in range(batch)]
        ended = [False] * batch
        while True:
            tokens = logits[:, -1].argmax(axis=-1)
            for row, token in enumerate(tokens.tolist()):
                if not ended[row]:
                    answers[row].append(token)
                    ended[row] = token in stop_ids or len(answers[row]) >= new_tokens
            if all(ended):
                return answers
            logits, past = self._session.run(tokens[:, None], start, past)
            start += 1


def _groups(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Group the indices of prompts of equal length."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt)].append(index)
    for indices in by_length.values():
        for start in range(0, len(indices), _BATCH):
            yield indices[start : start + _BATCH]


def _precision(session: PortableSession) -> str:
    """Return the precision of weights, tables and cache in words."""
    written = session.metadata.get(PRECISION_KEY)
    if written is None:  # a float export has one type throughout
        names = [_FLOATS.get(session.cache_type, session.cache_type)] * 3
    else:
        precision = json.loads(written)
        names = [precision[key] for key in ("weights", "embedding", "kv")]
    return f"{' / '.join(names)} (ONNX)"
