"""Where a measurement was made: a figure without it means nothing."""

from __future__ import annotations

import os
import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("edgellama", "onnxruntime", "onnxruntime-gpu", "numpy", "grpcio", "protobuf")


def environment() -> dict[str, Any]:
    """Return processor, cores, load average, system and package versions."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: number for name in _PACKAGES if (number := _version(name))},
    }


def rss_bytes() -> int:
    """Return this process's resident memory now; its peak where /proc is absent."""
    return _status_bytes("VmRSS")


def peak_rss_bytes() -> int:
    """Return the most memory that this process had resident since its program began.

    `ru_maxrss` is no less than what the parent had when it started the process; only where /proc is
    absent, on systems that do not inherit it, that is what counts.
    """
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
