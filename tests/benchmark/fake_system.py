"""A system without a model: a token each 1 ms, or what `how` of its settings says."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from typing import Any


def spin() -> None:
    while True:
        pass


class System:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.version = "7"
        self.how = settings.get("how", "")
        if self.how == "no model":
            raise ValueError("there is no model")
        if self.how == "spins":
            threading.Thread(target=spin, daemon=True).start()
        if self.how == "has a child":
            subprocess.Popen(["sleep", "600"])

    def run(self, requests: list[dict[str, Any]]) -> list[list[float]]:
        print("a library prints")
        os.write(1, b"even in C\n")
        is_decode = len(requests) == 1 and requests[0]["output_tokens"] > 12
        if self.how == "dies in decode" and is_decode:
            os.kill(os.getpid(), signal.SIGILL)
        if self.how == "hangs in decode" and is_decode:
            time.sleep(600)
        if self.how == "raises":
            raise MemoryError("no room")
        lengths = [request["output_tokens"] for request in requests]
        if self.how == "forgets one" and is_decode:
            lengths[0] -= 1
        if self.how == "all at once":
            return [[0.5] * length for length in lengths]
        return [[0.001 * (place + 1) for place in range(length)] for length in lengths]


def open_system(settings: dict[str, Any]) -> System:
    return System(settings)
