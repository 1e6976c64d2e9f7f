"""llama.cpp: its batch interface by hand, in-flight batching as in its own server.

Each step is one batch: the next token of every running request and a piece of a waiting prompt.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import llama_cpp
import numpy as np


class _Sequence:
    """One request on its way; `done` counts its tokens in the cache."""

    def __init__(self, number: int, request: dict[str, Any]) -> None:
        self.number = number
        self.pending: list[int] = request["prompt"]
        self.left: int = request["output_tokens"]
        self.done = 0


class System:
    """A GGUF file; `settings` has `model`, `threads`, `batch`, `sequences` and `tokens` of each."""

    def __init__(self, settings: dict[str, Any]) -> None:
        llama_cpp.llama_backend_init()
        self.version = llama_cpp.__version__
        self._batch_tokens: int = settings["batch"]
        params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(settings["model"].encode(), params)
        if not self._model:
            raise RuntimeError(f"{settings['model']} cannot be loaded")
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._batch = llama_cpp.llama_batch_init(self._batch_tokens, 0, 1)
        # One long sequence, or many short ones: a cache shared by both would be read in vain.
        self._alone = self._context(settings, 1, settings["tokens"])
        self._many = self._context(settings, settings["sequences"], settings["tokens_of_many"])

    def _context(self, settings: dict[str, Any], sequences: int, tokens: int) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = sequences * tokens
        params.n_seq_max = sequences
        params.n_batch = params.n_ubatch = self._batch_tokens
        params.n_threads = params.n_threads_batch = settings["threads"]
        params.kv_unified = settings["unified"]
        params.no_perf = True
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError(f"no context of {sequences} sequences of {tokens} tokens")
        return context

    def run(self, requests: list[dict[str, Any]]) -> list[list[float]]:
        """Return the seconds to each token of each request."""
        context = self._alone if len(requests) == 1 else self._many
        memory = llama_cpp.llama_get_memory(context)
        llama_cpp.llama_memory_clear(memory, False)
        begin = time.perf_counter()
        times: list[list[float]] = [[] for _ in requests]
        waiting = [_Sequence(number, request) for number, request in enumerate(requests)]
        running: list[_Sequence] = []
        while waiting or running:
            elapsed = time.perf_counter() - begin
            while waiting and requests[waiting[0].number]["arrival"] <= elapsed:
                running.append(waiting.pop(0))
            if not running:
                time.sleep(requests[waiting[0].number]["arrival"] - elapsed)
                continue
            drawn = self._step(context, running)
            now = time.perf_counter() - begin
            for sequence, token in drawn:
                times[sequence.number].append(now)
                sequence.pending, sequence.left = [token], sequence.left - 1
                if not sequence.left:
                    running.remove(sequence)
                    llama_cpp.llama_memory_seq_rm(memory, sequence.number, -1, -1)
        return times

    def _step(self, context: Any, running: list[_Sequence]) -> list[tuple[_Sequence, int]]:
        """Run one batch; returns the requests that got a token, and the token."""
        ends: list[tuple[_Sequence, int]] = []
        count = 0
        # Those that decode come first: their one token always finds room.
        for sequence in sorted(running, key=lambda each: len(each.pending)):
            piece = sequence.pending[: self._batch_tokens - count]
            for token in piece:
                self._batch.token[count] = token
                self._batch.pos[count] = sequence.done
                self._batch.n_seq_id[count] = 1
                self._batch.seq_id[count][0] = sequence.number
                self._batch.logits[count] = 0
                sequence.done += 1
                count += 1
            sequence.pending = sequence.pending[len(piece) :]
            if piece and not sequence.pending:
                self._batch.logits[count - 1] = 1
                ends.append((sequence, count - 1))
        self._batch.n_tokens = count
        state = llama_cpp.llama_decode(context, self._batch)
        if state:
            raise RuntimeError(f"llama_decode returned {state}")
        return [(sequence, self._greedy(context, place)) for sequence, place in ends]

    def _greedy(self, context: Any, place: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(context, place)
        address = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
        return int(np.argmax(np.ctypeslib.as_array(address, (self._vocab,))))


def open_system(settings: dict[str, Any]) -> System:
    """Load the file."""
    return System(settings)
