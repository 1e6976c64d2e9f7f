"""The memory of an engine in a process of its own, beside its files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgellama.benchmark.latency_grid import MeasurementError
from edgellama.benchmark.series import series
from edgellama.runtime.manifest import Manifest

_MEASURED = ("imports_rss_bytes", "loaded_rss_bytes", "peak_rss_bytes")


class MemoryPart:
    """A process a round: it loads the engine, and its greatest steps use all slots whole."""

    def __init__(self, directory: Path, manifest: Manifest, threads: int | None) -> None:
        self._directory, self._manifest, self._threads = directory, manifest, threads
        self._rounds: list[dict[str, int]] = []

    @property
    def kv_bytes(self) -> int:
        """Bytes of the pool."""
        kv = self._manifest.kv
        return kv.slots * kv.capacity * kv.bytes_per_token

    def run(self) -> None:
        """Run one round; the process ends on every way out. Raises MeasurementError."""
        threads = "-" if self._threads is None else str(self._threads)
        worker = (sys.executable, "-m", "edgellama.benchmark.memory_worker")
        # A session of its own: Ctrl-C reaches it through this process only.
        done = subprocess.run(
            (*worker, str(self._directory), threads),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
        )
        if done.returncode < 0:
            name = signal.Signals(-done.returncode).name
            raise MeasurementError(
                f"the process whose memory is measured was killed by {name}; where the machine has "
                "too little memory for the engine, that is SIGKILL"
            )
        if done.returncode:
            raise MeasurementError(
                f"the process whose memory is measured ended with code {done.returncode}: "
                f"{(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}"
            )
        self._rounds.append(json.loads(done.stdout))

    def row(self) -> dict[str, Any]:
        """Return the figures of all rounds; `ratio` is (peak - pool) / files of the engine."""
        files = self._manifest.bytes
        peaks = [each["peak_rss_bytes"] for each in self._rounds]
        return {
            "slots": self._manifest.kv.slots,
            "capacity": self._manifest.kv.capacity,
            "kv_dtype": self._manifest.kv.dtype,
            "kv_bytes": self.kv_bytes,
            "engine_bytes": files,
            **{name: series([each[name] for each in self._rounds]) for name in _MEASURED},
            "ratio": series([(peak - self.kv_bytes) / files for peak in peaks]),
        }
