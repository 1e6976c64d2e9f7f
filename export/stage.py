"""An output directory that appears whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

_open: set[Path] = set()  # folders that this process is working on


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_leftover(folder: Path) -> bool:
    """Whether the process that made a staging or retired folder cannot finish with it."""
    pid = folder.name.rpartition("-")[2]
    if not pid.isdigit():
        return False
    if int(pid) == os.getpid():  # in a container every run may have the same number
        return folder not in _open
    return not _is_alive(int(pid))


def _recover(out: Path) -> None:
    """Undo what killed processes left beside `out`; a retired folder without successor returns."""
    name = glob.escape(out.name)
    for folder in filter(_is_leftover, out.parent.glob(f".{name}.retired-*")):
        if out.exists():
            shutil.rmtree(folder)
        else:
            folder.rename(out)
    for folder in filter(_is_leftover, out.parent.glob(f".{name}.staging-*")):
        shutil.rmtree(folder)


def _swap(staging: Path, out: Path, retired: Path) -> None:
    """Put `staging` in the place of `out`; on failure `out` stays or comes back."""
    try:
        if out.exists():
            out.rename(retired)
        staging.rename(out)
    except BaseException:
        if retired.exists() and not out.exists():
            retired.rename(out)
        raise
    if retired.exists():
        shutil.rmtree(retired)


@contextlib.contextmanager
def staged_directory(out: Path) -> Iterator[Path]:
    """Yield a staging folder beside `out`; on success it takes the place of `out`.

    On any exception, Ctrl-C included, the staging folder is removed and `out` stays as it was. A
    link is followed: the folder behind it is replaced. Raises OSError at once for an `out` that is
    a file or a mount point, which cannot be renamed.
    """
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; choose another folder")
    if out.is_mount():
        raise OSError(f"{out} is a mount point, which cannot be replaced; choose a folder in it")
    out.parent.mkdir(parents=True, exist_ok=True)
    _recover(out)
    staging = out.parent / f".{out.name}.staging-{os.getpid()}"
    retired = out.parent / f".{out.name}.retired-{os.getpid()}"
    if staging in _open:
        raise FileExistsError(f"{out} is being written by another thread of this process")
    _open.update((staging, retired))
    try:
        staging.mkdir()
        yield staging
        _swap(staging, out, retired)
    finally:
        _open.difference_update((staging, retired))
        if staging.exists():
            shutil.rmtree(staging)


def foreign_name(out: Path, written: Collection[str]) -> str | None:
    """Return an entry of the folder `out` that is not among the written: it would be lost."""
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    return next((name for name in names if name not in written), None)


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
