"""Where earlier results lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellama.profiles.cache_folder import cache_folder


def test_the_folder_of_the_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("timing") == tmp_path / "edgellama" / "timing"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("timing") == Path.home() / ".cache" / "edgellama" / "timing"
