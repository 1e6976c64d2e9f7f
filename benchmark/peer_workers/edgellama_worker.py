"""edgellama: the engine in this process, in-flight batching."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgellama.runtime.engine import Engine
from edgellama.runtime.event import Delta, End, Event, FinishReason
from edgellama.runtime.manifest import read_manifest
from edgellama.runtime.request import Request, Sampling, Stop


class System:
    """An engine directory, loaded; `settings` has `model`, `threads` and what replaces limits:
    `draft_tokens` and `chunk_slowdown`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.version = version("edgellama")
        folder = Path(settings["model"])
        limits = replace(
            read_manifest(folder).profile.limits,
            draft_tokens=settings["draft_tokens"],
            chunk_slowdown=settings["chunk_slowdown"],
        )
        self._engine = Engine.load(folder, threads=settings["threads"], limits=limits)

    def run(self, requests: list[dict[str, Any]]) -> list[list[float]]:
        """Return the seconds to each token of each request."""
        begin = time.perf_counter()
        times: list[list[float]] = [[] for _ in requests]
        faults: list[str] = []
        open_requests = threading.Semaphore(0)

        def listener(index: int) -> Callable[[Event], None]:
            def listen(event: Event) -> None:
                if isinstance(event, Delta):
                    now = time.perf_counter() - begin
                    times[index] += [now] * len(event.token_ids)
                elif isinstance(event, End):
                    if event.reason is not FinishReason.MAX_TOKENS:
                        faults.append(f"request {index} ended with {event.reason}")
                    open_requests.release()

            return listen

        for index, request in enumerate(requests):
            time.sleep(max(0.0, request["arrival"] - (time.perf_counter() - begin)))
            wanted = Request(
                prompt_ids=tuple(request["prompt"]),
                sampling=Sampling(temperature=0.0),
                stop=Stop(max_new_tokens=request["output_tokens"], ignore_eos=True),
                cache_salt=uuid.uuid4().hex,  # the same prompts come in every round
            )
            self._engine.submit(wanted, listener(index))
        for _ in requests:
            open_requests.acquire()
        if faults:
            raise RuntimeError("; ".join(faults))
        return times


def open_system(settings: dict[str, Any]) -> System:
    """Load the engine."""
    return System(settings)
