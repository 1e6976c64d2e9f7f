"""Work for processes beside each other; each must be able to import it."""

from __future__ import annotations

import os
import signal

from edgellama.benchmark.outcome import CheckFailed


def place(number: int) -> tuple[int, int]:
    """Return the number, and the process that was asked."""
    return number, os.getpid()


def fails(number: int) -> None:
    """Raise what a check does."""
    raise CheckFailed(f"{number} is wrong", {"number": number})


def dies(number: int) -> None:
    """End this process as NVIDIA's code may."""
    os.kill(os.getpid(), signal.SIGKILL)
