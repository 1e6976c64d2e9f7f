"""`engine.json` is read strictly: whatever is wrong with it is an EngineError that says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import load_profile
from edgellama.runtime.manifest import (
    EngineError,
    KvLayout,
    Manifest,
    TensorInfo,
    check_files,
    read_manifest,
    record_files,
    write_manifest,
)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Write an engine directory whose graph is no graph: only the manifest is of interest."""
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "generation.json").write_text("{}")
    written = Manifest(
        profile=load_profile("cpu-tiny"),
        model=ModelConfig(258, 64, 96, 2, 4, 2, 16, 128, 1e-5, 1e4, None, True),
        source="small",
        fingerprint="0" * 64,
        graph="model.onnx",
        inputs=(TensorInfo("input_ids", "int64", ("batch", "sequence")),),
        outputs=(TensorInfo("logits", "float32", ("rows", 258)),),
        kv=KvLayout(2, 2, 16, 4, 96, "float32"),
        files=record_files(tmp_path),
        versions={},
        build={},
        verify={},
    )
    write_manifest(tmp_path, written)
    return written


def test_a_manifest_comes_back_as_it_was_written(manifest: Manifest, tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == manifest
    check_files(tmp_path, manifest)


def change(directory: Path, alter: Callable[[Any], object]) -> None:
    path = directory / "engine.json"
    raw = json.loads(path.read_text())
    alter(raw)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda raw: raw.update(schema_version=4), "schema_version is 4; this version reads 3"),
        (lambda raw: raw.pop("kv"), "damaged .*'kv'"),
        (lambda raw: raw.update(graph="../other/model.onnx"), "not among its files"),
        (lambda raw: raw.update(graph="/etc/passwd"), "not among its files"),
        (lambda raw: raw.update(graph=None), "graph is None"),
        (lambda raw: raw["kv"].update(slots="8"), r"kv\.slots is '8'"),
        (lambda raw: raw["kv"].update(capacity=0), r"kv\.capacity is 0"),
        (lambda raw: raw["model"].update(num_layers=0), "num_layers is 0"),
        (lambda raw: raw["profile"]["limits"].update(slots=0), r"limits\.slots is 0"),
        (lambda raw: raw.update(files=["model.onnx"]), "damaged"),
        (lambda raw: raw.update(files={"model.onnx": 3}), "damaged"),
    ],
)
def test_what_is_wrong_is_told(
    manifest: Manifest, tmp_path: Path, alter: Callable[[Any], object], message: str
) -> None:
    change(tmp_path, alter)
    with pytest.raises(EngineError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_what_is_no_manifest_is_damaged(manifest: Manifest, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "engine.json").write_bytes(content)
    with pytest.raises(EngineError, match="is damaged"):
        read_manifest(tmp_path)


def test_a_file_outside_the_directory_is_missing(manifest: Manifest, tmp_path: Path) -> None:
    outside = tmp_path.parent / "outside.onnx"
    outside.write_bytes(b"graph")
    record = manifest.files["model.onnx"]
    for name in ("../outside.onnx", str(outside)):
        change(tmp_path, lambda raw, name=name: raw["files"].update({name: vars(record)}))
        with pytest.raises(EngineError, match=r"outside\.onnx is missing"):
            check_files(tmp_path, read_manifest(tmp_path))


def test_a_file_that_is_not_listed_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ evil }}")
    with pytest.raises(EngineError, match=r"chat_template\.jinja is not listed"):
        check_files(tmp_path, manifest)
