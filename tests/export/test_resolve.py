"""What a model or adapter argument names, and what a checkpoint is called in an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from edgellama.export.error import ExportError
from edgellama.export.resolve import resolve_adapter, resolve_model, source_name


def test_the_embedded_model_has_its_name() -> None:
    assert resolve_model("tiny").joinpath("config.json").is_file()
    assert source_name(resolve_model("tiny")) == "tiny"


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name@v1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model(str(tmp_path)) == resolve_adapter(str(tmp_path)) == tmp_path
    assert resolve_model("owner/name@v1") == Path("owner/name@v1")  # before any hub id
    assert resolve_model("~/owner") == tmp_path / "owner"


@pytest.mark.parametrize(
    "given",
    ["./not/there", "/not/there", "~/there", "name", "a/b/c", "a/", "/a", "", "@v1", "a@b/c"],
)
def test_what_is_neither_folder_nor_hub_id(given: str) -> None:
    with pytest.raises(ExportError, match=r"model .* is neither a folder nor a hub id.*'tiny'"):
        resolve_model(given)
    with pytest.raises(ExportError, match=r"adapter .* is neither a folder nor a hub id"):
        resolve_adapter(given)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ExportError, match="is a file; give the folder that holds it"):
        resolve_model(str(file))


def test_an_id_that_the_hub_could_not_have() -> None:
    with pytest.raises(ExportError, match="not a hub id"):
        resolve_model("owner/na me")


def test_a_snapshot_of_the_hub_is_its_repository_not_a_hash(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--meta-llama--Llama-3.2-1B-Instruct" / "snapshots" / "9213176726f5"
    assert source_name(snapshot) == "meta-llama/Llama-3.2-1B-Instruct"


def test_another_folder_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert source_name(tmp_path / "mine") == "mine"
    assert source_name(Path()) == "mine"
