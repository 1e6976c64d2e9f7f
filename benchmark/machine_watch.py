"""Who else used the machine while something was measured: a figure from a busy one says so."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgellama.benchmark.environment import environment

# Shares of all cores beyond which a figure is not to be trusted.
BUSY_SHARE = 0.1
STOLEN_SHARE = 0.05
_PROC = Path("/proc")
_CPU = Path("/sys/devices/system/cpu/cpu0/cpufreq")
# Places in /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
_BUSY, _STEAL = (0, 1, 2, 5, 6), 7


@dataclass(frozen=True)
class _Reading:
    at: float
    busy: float
    stolen: float
    own: float


class MachineWatch:
    """Watches from its making on; only Linux tells what others do, elsewhere that is unknown."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._mhz = _frequencies()
        self._first = _read()

    def facts(self) -> dict[str, Any]:
        """Return `environment` and what happened since: load averages, frequency, shares of all
        cores that other programs used and that the host gave to others, and warnings."""
        mhz = [*self._mhz, *_frequencies()]
        facts = environment()
        facts["load_average"] = round(self._load, 2)
        facts["load_average_after"] = round(os.getloadavg()[0], 2)
        facts["frequency_mhz"] = _frequency_facts(mhz)
        facts["governor"] = _governor()
        shares = self._shares()
        facts |= shares
        facts["warnings"] = warnings(shares["other_share"], shares["stolen_share"])
        return facts

    def _shares(self) -> dict[str, float | None]:
        first, last = self._first, _read()
        if first is None or last is None or last.at <= first.at:
            return {"other_share": None, "stolen_share": None}
        cores = (os.cpu_count() or 1) * (last.at - first.at)
        others = (last.busy - first.busy) - (last.own - first.own)
        return {
            "other_share": round(max(0.0, others / cores), 4),
            "stolen_share": round((last.stolen - first.stolen) / cores, 4),
        }


def warnings(other_share: float | None, stolen_share: float | None) -> list[str]:
    """Return what a reader must know; shares are of all cores, 0 to 1, None where unknown."""
    found = []
    if other_share is None or stolen_share is None:
        found.append("this system does not say what other programs did meanwhile")
    else:
        if other_share > BUSY_SHARE:
            found.append(
                f"the machine was busy: other programs took {other_share:.0%} of all cores"
            )
        if stolen_share > STOLEN_SHARE:
            found.append(f"the host gave {stolen_share:.0%} of all cores to other machines")
    return found


def _read() -> _Reading | None:
    stat = _PROC / "stat"
    if not stat.is_file():
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    fields = [int(each) / ticks for each in stat.read_text().splitlines()[0].split()[1:]]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = time.process_time() + ended.ru_utime + ended.ru_stime
    own += sum(_cpu_seconds(pid, ticks) for pid in _descendants(os.getpid()))
    busy = sum(fields[place] for place in _BUSY)
    return _Reading(time.monotonic(), busy, fields[_STEAL], own)


def _descendants(pid: int) -> list[int]:
    found = []
    try:
        for task in (_PROC / str(pid) / "task").iterdir():
            found += [int(each) for each in (task / "children").read_text().split()]
    except OSError:  # it has ended meanwhile, or the kernel keeps no such list
        return found
    return found + [each for child in found for each in _descendants(child)]


def _cpu_seconds(pid: int, ticks: int) -> float:
    """Return the CPU time of a process and of those of its children that have ended."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return sum(int(each) for each in fields[11:15]) / ticks


def _frequencies() -> list[float]:
    """Return the MHz of each core now."""
    info = _PROC / "cpuinfo"
    if not info.is_file():
        return []
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]


def _frequency_facts(mhz: list[float]) -> dict[str, float] | None:
    if not mhz:
        return None
    return {"median": round(median(mhz)), "low": round(min(mhz)), "high": round(max(mhz))}


def _governor() -> str | None:
    path = _CPU / "scaling_governor"
    return path.read_text().strip() if path.is_file() else None
