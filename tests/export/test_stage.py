"""An output directory appears whole or not at all, whatever happened before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgellama.export.stage import require_disk_space, staged_directory


def test_a_staged_directory_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), staged_directory(out) as staging:
        (staging / "new").write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "old").read_text() == "old"
    with staged_directory(out) as staging:
        (staging / "new").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["new"]


def dead_process() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


@pytest.mark.parametrize("name", ["out", "out[1]"])
def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    out.mkdir()
    # The number of this very process: in a container a killed run often had it too.
    for pid in (dead_process(), os.getpid()):
        for kind in ("staging", "retired"):
            (tmp_path / f".{name}.{kind}-{pid}").mkdir()
            (tmp_path / f".{name}.{kind}-{pid}" / "half").write_text("half")
    with staged_directory(out) as staging:
        assert set(tmp_path.iterdir()) == {out, staging}
        assert list(staging.iterdir()) == []


def test_a_process_killed_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    retired = tmp_path / f".out.retired-{dead_process()}"
    retired.mkdir()
    (retired / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), staged_directory(tmp_path / "out"):
        raise KeyboardInterrupt
    assert (tmp_path / "out" / "old").read_text() == "old"


def test_a_failed_rename_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if "staging" in path.name:
            raise OSError("planted")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="planted"), staged_directory(out):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "old").read_text() == "old"


def test_a_link_is_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.mkdir(parents=True)
    (real / "old").write_text("old")
    link.symlink_to(real)
    with staged_directory(link) as staging:
        (staging / "new").write_text("new")
    assert link.is_symlink() and [path.name for path in real.iterdir()] == ["new"]
    assert [path.name for path in real.parent.iterdir()] == ["real"]


def test_a_file_and_a_mount_point_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file"), staged_directory(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(OSError, match="mount point"), staged_directory(Path("/proc")):
        pass


def test_one_folder_is_written_once_at_a_time(tmp_path: Path) -> None:
    with staged_directory(tmp_path / "out") as first:
        with (
            pytest.raises(FileExistsError, match="being written"),
            staged_directory(tmp_path / "out"),
        ):
            pass
        (first / "new").write_text("whole")
    assert (tmp_path / "out" / "new").read_text() == "whole"


def test_a_full_disk_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="free some space"):
        require_disk_space(tmp_path / "not" / "there", 1 << 60, "the engine")
