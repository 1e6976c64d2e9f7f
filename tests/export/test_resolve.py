"""What a checkpoint is called in an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from edgellama.export.resolve import resolve_model, source_name


def test_the_embedded_model_has_its_name() -> None:
    assert source_name(resolve_model("tiny")) == "tiny"


def test_a_snapshot_of_the_hub_is_its_repository_not_a_hash(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--meta-llama--Llama-3.2-1B-Instruct" / "snapshots" / "9213176726f5"
    assert source_name(snapshot) == "meta-llama/Llama-3.2-1B-Instruct"


def test_another_folder_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert source_name(tmp_path / "mine") == "mine"
    assert source_name(Path()) == "mine"
