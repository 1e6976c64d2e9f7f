"""The machine's ceilings beside a measurement: asked again and again, in the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

# The greatest array that is read: far beyond any cache, and small beside an engine.
LARGEST_BYTES = 256 << 20
# One thread a call of BLAS: the worker starts the threads itself. Its pools sleep while they wait,
# for the engine is measured meanwhile.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
}
# They choose kernels for another processor than this one.
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_NUM_THREADS")


class CeilingError(RuntimeError):
    """The process that measures ceilings ended."""


@dataclass(frozen=True)
class Ceilings:
    """One measurement: 10^9 bytes read a second, and 10^9 operations a second by type."""

    read_gb_s: float
    matrix_gops: Mapping[str, float]

    @property
    def matrix_used(self) -> str:
        """The fastest type: what the machine could do, whatever the engine computes with."""
        return max(self.matrix_gops, key=lambda name: self.matrix_gops[name])

    def read_seconds(self, size: int) -> float:
        """Return the least seconds to read `size` bytes."""
        return size / (self.read_gb_s * 1e9)

    def matrix_seconds(self, operations: int) -> float:
        """Return the least seconds for a number of operations."""
        return operations / (self.matrix_gops[self.matrix_used] * 1e9)


class CeilingMeter:
    """Owns the process that measures; it does nothing between two calls."""

    def __init__(self, threads: int) -> None:
        environment = {name: v for name, v in os.environ.items() if name not in _UNSET}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgellama.benchmark.ceiling_worker", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, **_ENVIRONMENT},
        )

    def __enter__(self) -> CeilingMeter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def measure(self, step_bytes: int) -> Ceilings:
        """Measure now; `step_bytes` is what the engine reads in a step. Takes some 0.3 s."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps({"bytes": min(step_bytes, LARGEST_BYTES)}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise CeilingError(f"the process that measures the machine ended with {code}")
        return Ceilings(**json.loads(line))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
