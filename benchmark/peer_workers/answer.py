"""Answer work over JSON lines: python answer.py FILE SETTINGS, where FILE has one system's class.

FILE defines `open_system(settings)`; what it returns has `version`, and `run(requests)`, which
gives for each request the seconds from the start of the run to each of its tokens. A request is
{"prompt": ids, "output_tokens": count, "arrival": seconds}. One line is read and one is written for
each run; what the libraries print goes to standard error.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import sys
import time
from typing import Any

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Be killed when the parent ends: a stopped process would notice nothing and stay for good."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def load(file: str) -> Any:
    """Import a file by its path: nothing of the project lies in the environment of a system."""
    spec = importlib.util.spec_from_file_location("system", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["system"] = module
    spec.loader.exec_module(module)
    return module


def main(file: str, settings: str) -> None:
    """Load the system, say so, and run what is asked for until the input ends."""
    end_with_parent()
    # Libraries in C write to descriptor 1, so the answers get one of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    begin = time.perf_counter()
    system = load(file).open_system(json.loads(settings))
    answer({"version": system.version, "load_seconds": time.perf_counter() - begin})
    for line in sys.stdin:
        try:
            answer({"times": system.run(json.loads(line)["requests"])})
        except Exception as error:  # the reason goes into the document, other work goes on
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(*sys.argv[1:])
