"""onnxruntime-genai: a Generator for one request, its Engine for several.

On a CPU the Engine batches statically: a request that arrives waits until the batch has ended.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import onnxruntime_genai as og

_EVENTS = 64


class System:
    """Two models of the builder, `alone` and `together`, in the folder `model` of `settings`,
    which has `threads`, `batch` and `tokens_of_many` too.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.version = og.__version__
        folder = settings["model"]
        self._alone_model = og.Model(self._config(f"{folder}/alone", settings["threads"]))
        config = self._config(f"{folder}/together", settings["threads"])
        # The Engine takes memory for so many tokens of each request at once.
        config.overlay(json.dumps({"search": {"max_length": settings["tokens_of_many"]}}))
        batching = {"static_batching": {"max_batch_size": settings["batch"]}}
        config.overlay(json.dumps({"engine": batching}))
        self._engine = og.Engine(og.Model(config))

    def _config(self, folder: str, threads: int) -> Any:
        config = og.Config(folder)
        config.clear_providers()
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        return config

    def run(self, requests: list[dict[str, Any]]) -> list[list[float]]:
        """Return the seconds to each token of each request."""
        return [self._alone(requests[0])] if len(requests) == 1 else self._together(requests)

    def _alone(self, request: dict[str, Any]) -> list[float]:
        begin = time.perf_counter()
        count = request["output_tokens"]
        params = og.GeneratorParams(self._alone_model)
        params.set_search_options(do_sample=False, max_length=len(request["prompt"]) + count)
        generator = og.Generator(self._alone_model, params)
        generator.append_tokens(np.asarray([request["prompt"]], np.int32))
        times = []
        for _ in range(count):
            if generator.is_done():
                break
            generator.generate_next_token()
            times.append(time.perf_counter() - begin)
        return times

    def _together(self, requests: list[dict[str, Any]]) -> list[list[float]]:
        begin = time.perf_counter()
        times: list[list[float]] = [[] for _ in requests]
        buffer = self._engine.create_event_buffer(_EVENTS)
        waiting = list(enumerate(requests))
        opened: list[Any] = []
        while waiting or self._engine.has_pending_requests():
            while waiting and waiting[0][1]["arrival"] <= time.perf_counter() - begin:
                _, request = waiting.pop(0)
                opened.append(self._begin(request))
            if not self._engine.has_pending_requests():
                time.sleep(max(0.0, waiting[0][1]["arrival"] - (time.perf_counter() - begin)))
                continue
            for event in self._engine.run(buffer) or []:
                if event.error_code != og.EngineErrorCode.NONE:
                    raise RuntimeError(f"the engine reports error {event.error_code}")
                if event.token is not None:
                    times[opened.index(event.request)].append(time.perf_counter() - begin)
        for request in opened:
            request.close()
        return times

    def _begin(self, request: dict[str, Any]) -> Any:
        opened = self._engine.create_request()
        options = og.TurnOptions(opened)
        options.set_max_generated_tokens(request["output_tokens"])
        options.set_do_sample(False)
        opened.begin_turn(np.asarray(request["prompt"], np.int32), options)
        return opened


def open_system(settings: dict[str, Any]) -> System:
    """Load the model."""
    return System(settings)
