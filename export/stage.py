"""An output directory that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove_leftovers(out: Path) -> None:
    """Delete staging folders of processes that were killed before they could clean up."""
    for folder in out.parent.glob(f".{out.name}.staging-*"):
        pid = folder.name.rpartition("-")[2]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(folder)


@contextlib.contextmanager
def staged_directory(out: Path) -> Iterator[Path]:
    """Yield a staging folder beside `out`; on success it takes the place of `out`.

    On any exception, Ctrl-C included, the staging folder is removed and `out` stays as it was.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out)
    staging = out.parent / f".{out.name}.staging-{os.getpid()}"
    staging.mkdir()
    try:
        yield staging
        retired = out.parent / f".{out.name}.retired-{os.getpid()}"
        if out.exists():
            out.rename(retired)
        staging.rename(out)
        if retired.exists():
            shutil.rmtree(retired)
    finally:
        if staging.exists():
            shutil.rmtree(staging)


def require_disk_space(folder: Path, needed: int, what: str) -> None:
    """Raise OSError when the file system of `folder` has fewer than `needed` bytes free."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OSError(
            f"{what} needs {needed / 1e9:.2f} GB at {folder}, where {free / 1e9:.2f} GB are free; "
            "free some space or choose another folder"
        )
