"""transformers: bfloat16, one request after another, eager or with compiled decode steps."""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache


class System:
    """A checkpoint; `settings` has `model`, `threads`, `compiled` and `static_tokens`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.version = f"{transformers.__version__}, torch {torch.__version__}"
        torch.set_num_threads(settings["threads"])
        model: Any = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.bfloat16)
        self._model = model.eval()
        self._is_compiled = settings["compiled"]
        self._static_tokens = settings["static_tokens"]
        self._decode = torch.compile(self._model) if self._is_compiled else self._model

    def run(self, requests: list[dict[str, Any]]) -> list[list[float]]:
        """Return the seconds to each token of each request."""
        begin = time.perf_counter()
        times = []
        for request in requests:
            time.sleep(max(0.0, request["arrival"] - (time.perf_counter() - begin)))
            times.append(self._answer(request["prompt"], request["output_tokens"], begin))
        return times

    @torch.inference_mode()
    def _answer(self, prompt: list[int], count: int, begin: float) -> list[float]:
        cache = self._cache(len(prompt) + count if count > 1 else 0)
        ids, place = torch.tensor([prompt]), torch.arange(len(prompt))
        run = self._model  # a prompt of each length would be compiled anew, so it is eager
        times = []
        for _ in range(count):
            logits = run(
                input_ids=ids,
                position_ids=place[None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
            ids, place = logits[:, -1:].argmax(-1), place[-1:] + 1
            run = self._decode
            int(ids)  # waits for the token
            times.append(time.perf_counter() - begin)
        return times

    def _cache(self, tokens: int) -> Any:
        """Return a cache; the static one keeps its size, so that one compilation serves all."""
        if not self._is_compiled or tokens == 0:
            return DynamicCache(config=self._model.config)
        if tokens > self._static_tokens:
            raise ValueError(f"{tokens} tokens; the static cache holds {self._static_tokens}")
        return StaticCache(config=self._model.config, max_cache_len=self._static_tokens)


def open_system(settings: dict[str, Any]) -> System:
    """Load the checkpoint."""
    return System(settings)
