"""TensorRT's nested build phases as one line that never runs backwards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellama.optimize.tensorrt.library import Library, ProgressMonitor

STEPS = 1000  # that the whole build is divided into
Report = Callable[[str, int, int], None]  # stage, steps done, of how many


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Progress:
    """Follow phases, report whole steps of STEPS, and say when the build must stop.

    It is told from any thread. An exception of `report` stops the build and is kept, for one that
    crossed native code would end the process.
    """

    def __init__(self, report: Report, stopped: Callable[[], bool]) -> None:
        self._report = report
        self._stopped = stopped
        self._phases: dict[str, _Phase] = {}  # those that run, in the order in which they began
        self._last = ("", 0)
        self._lock = threading.Lock()
        self.failure: BaseException | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase began, within its parent."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(steps, 1))
            self._tell(name)

    def step(self, name: str, step: int) -> bool:
        """Step number `step` of a phase is done; returns whether to go on."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done = min(step + 1, phase.steps)
            self._tell(name)
        return self.failure is None and not self._stopped()

    def finish(self, name: str) -> None:
        """A phase ended."""
        with self._lock:
            self._phases.pop(name, None)

    def complete(self) -> None:
        """The plan is there: raises what `report` raises."""
        self._report("done", STEPS, STEPS)

    def _fraction(self, name: str | None) -> float:
        """Return how much of a phase is done; None stands for the whole build."""
        inner = [key for key, phase in self._phases.items() if phase.parent == name]
        part = max((self._fraction(key) for key in inner), default=0.0)
        if name is None:
            return part
        phase = self._phases[name]
        return min(1.0, (phase.done + part) / phase.steps)

    def _tell(self, stage: str) -> None:
        # Phases overlap and repeat, so the sum may drop: it is held.
        done = max(self._last[1], int(self._fraction(None) * STEPS))
        if self.failure is not None or (stage, done) == self._last:
            return
        self._last = (stage, done)
        try:
            self._report(stage, done, STEPS)
        except BaseException as error:
            self.failure = error


def make_monitor(library: Library, progress: Progress) -> ProgressMonitor:
    """Return a monitor of the library's own class that tells `progress`."""
    if not TYPE_CHECKING:
        ProgressMonitor = library.IProgressMonitor

    class Monitor(ProgressMonitor):
        def __init__(self) -> None:
            ProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
