"""One system while it is measured: its process, its rates, and why it has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from edgellama.benchmark.peer_environment import PeerError, peer_python
from edgellama.benchmark.peer_folder import PeerFolder
from edgellama.benchmark.peer_process import PeerProcess
from edgellama.benchmark.peer_systems import PeerSystem
from edgellama.benchmark.peer_work import UNIT, PeerCell, PeerGrid, PeerRequest, warm_up
from edgellama.benchmark.series import ratio, series


@dataclass(frozen=True)
class Seconds:
    """How long a system may take to load, to warm up (some compile meanwhile), and for a cell."""

    load: float = 900.0
    warm_up: float = 900.0
    cell: float = 300.0


class Peer:
    """Measures a system cell by cell; what fails is kept as an error of its place.

    A cell that failed is not run again. A process that ended is started anew for the next cell;
    where that fails, that cell and all after it fail.
    """

    def __init__(
        self,
        system: PeerSystem,
        folder: PeerFolder,
        grid: PeerGrid,
        threads: int,
        seconds: Seconds,
    ) -> None:
        self.system = system
        self.error: str | None = None
        self._folder, self._grid, self._seconds = folder, grid, seconds
        self._settings = {**system.settings(grid), "threads": threads}
        self._python = ""
        self._model = Path()
        self._process: PeerProcess | None = None
        self._version: str | None = None
        self._load_seconds: float | None = None
        self._rates: dict[PeerCell, list[float]] = {}
        self._errors: dict[PeerCell, str] = {}

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def open(self) -> None:
        """Install, convert, load and warm up; where that fails `error` says why."""
        name, report = self.system.name, self._folder.report
        try:
            self._python = peer_python(self.system.packages, self._folder.cache, report)
            self._model = self.system.model(self._folder, self._grid)
            report(f"load {name}", 0, 1)
            self._start()
            report(f"load {name}", 1, 1)
        except PeerError as error:
            self.error = f"{name} {error}"
            self._close()  # it may be alive and have memory

    def run(self, cell: PeerCell) -> None:
        """Run a cell once and keep its rate, or why there is none."""
        if cell in self._errors:
            return
        try:
            self._restart()
            times = self._run(cell.requests, self._seconds.cell)
            self._rates.setdefault(cell, []).append(cell.rate(times))
        except PeerError as error:
            self.leave_out(cell, str(error))

    def leave_out(self, cell: PeerCell, why: str) -> None:
        """Have an error in the place of a cell's rate."""
        self._errors[cell] = f"{self.system.name} {why}"

    def facts(self) -> dict[str, Any]:
        """Return the entry of `systems`."""
        return {
            "system": self.system.name,
            "version": self._version,
            "settings": {"weights": self.system.weights, **self._settings},
            "in_flight": self.system.in_flight,
            "error": self.error,
            "load_seconds": self._load_seconds,
        }

    def row(self, cell: PeerCell, ours: Peer | None) -> dict[str, Any]:
        """Return the row of a cell; ratios are of values that both gave in the same round."""
        row = {**cell.labels, "system": self.system.name, "unit": UNIT}
        if cell in self._errors:
            return {**row, "error": self._errors[cell]}
        rates = self._rates[cell]
        row["value"] = series(rates)
        if ours is not None and ours is not self and cell not in ours._errors:
            both = min(len(rates), len(ours._rates[cell]))  # the later rounds may be of one only
            row["ratio_to_ours"] = ratio(rates[:both], ours._rates[cell][:both])
        return row

    def _start(self) -> None:
        """Load the system in a new process, and run some requests alone and together."""
        system, seconds = self.system, self._seconds
        settings = {**self._settings, "model": str(self._model)}
        log = self._folder.path / f"{system.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process = PeerProcess(self._python, system.file, settings, log, system.variables)
        loaded = self._process.load(seconds.load)
        self._version = loaded["version"]
        self._load_seconds = round(loaded["load_seconds"], 3)
        requests = warm_up(self._grid, self._folder.vocabulary, seed=0)
        self._run(requests[:1], seconds.warm_up)
        self._run(requests, seconds.warm_up)

    def _close(self) -> None:
        if self._process is not None and not self._process.closed:
            self._process.close()

    def _restart(self) -> None:
        """Start the system anew where its process has ended; once that failed, fail at once."""
        assert self._process is not None, "it was opened"
        if self.error is not None:
            raise PeerError(f"was not started again: {self.error}")
        if self._process.closed:
            try:
                self._start()
            except PeerError as error:
                self.error = f"{self.system.name} {error}"
                raise

    def _run(self, requests: Sequence[PeerRequest], seconds: float) -> list[list[float]]:
        assert self._process is not None
        return self._process.run([each.as_dict() for each in requests], seconds)
