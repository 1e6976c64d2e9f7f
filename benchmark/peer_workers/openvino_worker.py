"""OpenVINO GenAI: continuous batching, stepped by hand."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as ovg


class System:
    """An int4 model of optimum-intel; `settings` has `model`, `threads` and `cache_gb`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.version = f"{ovg.__version__}, openvino {ov.__version__}"
        scheduler = ovg.SchedulerConfig()
        scheduler.cache_size = settings["cache_gb"]
        scheduler.enable_prefix_caching = False  # the same prompts come in every round
        scheduler.dynamic_split_fuse = True
        properties = {"INFERENCE_NUM_THREADS": settings["threads"]}
        self._pipe = ovg.ContinuousBatchingPipeline(settings["model"], scheduler, "CPU", properties)
        self._number = 0

    def run(self, requests: list[dict[str, Any]]) -> list[list[float]]:
        """Return the seconds to each token of each request."""
        begin = time.perf_counter()
        times: list[list[float]] = [[] for _ in requests]
        waiting = list(enumerate(requests))
        handles: dict[int, Any] = {}
        while waiting or self._pipe.has_non_finished_requests():
            while waiting and waiting[0][1]["arrival"] <= time.perf_counter() - begin:
                index, request = waiting.pop(0)
                handles[index] = self._add(request)
            if not self._pipe.has_non_finished_requests():
                time.sleep(max(0.0, waiting[0][1]["arrival"] - (time.perf_counter() - begin)))
                continue
            self._pipe.step()
            now = time.perf_counter() - begin
            for index, handle in handles.items():
                while handle.can_read():
                    for output in handle.read().values():
                        times[index] += [now] * len(output.generated_ids)
        return times

    def _add(self, request: dict[str, Any]) -> Any:
        config = ovg.GenerationConfig()
        config.max_new_tokens = request["output_tokens"]
        config.ignore_eos = True
        config.do_sample = False
        self._number += 1
        ids = ov.Tensor(np.asarray([request["prompt"]], np.int64))
        return self._pipe.add_request(self._number, ids, config)


def open_system(settings: dict[str, Any]) -> System:
    """Compile the model."""
    return System(settings)
