"""The portable graph is transformers' own model, on any runtime that keeps to the standard."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from transformers import LlamaForCausalLM

from edgellama.export import to_onnx
from edgellama.export.checkpoint import open_checkpoint
from edgellama.export.error import ExportError
from edgellama.export.reference import reference_logits
from edgellama.export.to_onnx import export_portable
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.portable_session import PortableSession
from edgellama.optimize.source import PortableSource

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
IDS = [256, *range(40, 71)]


@pytest.fixture(scope="module", params=["tied", "untied-llama3-rope"])
def folder(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path]) -> Path:
    if request.param == "tied":
        return make_checkpoint()
    return make_checkpoint(
        num_hidden_layers=4,
        tie_word_embeddings=False,
        rope_parameters=LLAMA3_ROPE,
        head_dim=32,
        num_key_value_heads=1,
    )


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("portable") / "model"
    report = export_portable(folder, out)
    assert report.bytes == sum(path.stat().st_size for path in out.iterdir())
    return out


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    with torch.no_grad():
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        logits: np.ndarray = model(torch.tensor([IDS])).logits[0].numpy()
    return logits


def test_the_reference_is_transformers(folder: Path, expected: np.ndarray) -> None:
    ((logits,),) = reference_logits(open_checkpoint(folder), [IDS])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("chunks", [[32], [1] * 32, [5, 20, 7]])
def test_logits_equal_transformers_whole_and_in_chunks(
    exported: Path, folder: Path, expected: np.ndarray, chunks: list[int]
) -> None:
    session = PortableSession(exported / "model.onnx", open_checkpoint(folder).model)
    logits = session.logits(IDS, chunks)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_batch_and_past_are_dynamic(exported: Path, folder: Path, expected: np.ndarray) -> None:
    model = open_checkpoint(folder).model
    session = ort.InferenceSession(str(exported / "model.onnx"))
    empty = np.zeros((3, model.num_kv_heads, 0, model.head_dim), np.float32)
    feed = {
        "input_ids": np.array([IDS, IDS[::-1], IDS]),
        "position_ids": np.tile(np.arange(len(IDS)), (3, 1)),
        **{value.name: empty for value in session.get_inputs()[2:]},
    }
    logits = session.run(["logits"], feed)[0]
    assert logits.shape == (3, len(IDS), model.vocab_size)
    np.testing.assert_allclose(logits[2], expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_the_graph_is_standard_and_tells_nothing_of_this_machine(
    exported: Path, folder: Path
) -> None:
    layers = open_checkpoint(folder).model.num_layers
    model = onnx.load(exported / "model.onnx", load_external_data=False)
    onnx.checker.check_model(str(exported / "model.onnx"))
    assert {node.domain for node in model.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]
    assert sum(node.op_type == "Attention" for node in model.graph.node) == layers
    names = {tensor.name for tensor in model.graph.initializer}
    assert f"model.layers.{layers - 1}.self_attn.q_proj.weight" in names
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["edgellama.config"])["num_layers"] == layers
    content = (exported / "model.onnx").read_bytes()
    assert b"site-packages" not in content and os.fsencode(Path.home()) not in content


def test_half_precision_takes_two_bytes_a_weight(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint(num_hidden_layers=1)
    half = export_portable(folder, tmp_path / "half", dtype="float16")
    wanted = 2 * open_checkpoint(folder).model.num_parameters
    # A norm's 128 bytes are few enough to lie in the graph.
    assert 0.98 * wanted < (half.model / "model.onnx.data").stat().st_size < 1.01 * wanted


def test_a_value_beyond_float16_is_refused(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_checkpoint(num_hidden_layers=1)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = 1e6
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ExportError, match=r"model\.norm\.weight exceeds the float16 range"):
        export_portable(folder, tmp_path / "out", dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_refusals_come_first_and_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="dtype is 'int3'"):
        export_portable(tmp_path, tmp_path / "out", dtype="int3")
    assert list(tmp_path.iterdir()) == []


def test_only_an_export_is_replaced(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_checkpoint(num_hidden_layers=1)
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ExportError, match=r"holds .*, which no export writes"):
        export_portable(folder, folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == kept
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").write_text("an earlier export")
    export_portable(folder, out)
    assert (out / "model.onnx").stat().st_size > 1000
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"holds notes\.txt"):
        export_portable(folder, out)
    assert (out / "notes.txt").read_text() == "mine"


def test_a_transform_changes_what_is_written_and_what_must_fit(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = np.zeros([100_000, 64], np.float32)
    needed: list[int] = []

    def widen(model: ir.Model) -> None:
        value = model.graph.initializers["model.embed_tokens.weight"]
        value.shape = ir.Shape(zeros.shape)
        value.const_value = ir.LazyTensor(
            lambda: ir.Tensor(zeros), ir.DataType.FLOAT, value.shape, name=value.name
        )

    monkeypatch.setattr(to_onnx, "require_disk_space", lambda _, size, __: needed.append(size))
    folder = make_checkpoint(num_hidden_layers=1)
    out = export_portable(folder, tmp_path / "wide", transform=widen).model
    size = (out / "model.onnx.data").stat().st_size
    assert zeros.nbytes < size <= needed[0] <= zeros.nbytes + (1 << 20) + to_onnx._GRAPH_BYTES


def test_graph_only_is_the_graph_of_an_export(exported: Path, folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((folder / "config.json").read_bytes())
    report = export_portable(bare, tmp_path / "graph", graph_only=True)
    assert {path.name for path in report.model.iterdir()} == {"model.onnx", "config.json"}
    whole, graph = (
        onnx.load(path / "model.onnx", load_external_data=False)
        for path in (exported, report.model)
    )
    assert list(whole.graph.node) == list(graph.graph.node)
    assert list(whole.graph.input) == list(graph.graph.input)
    weights = [
        [(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer]
        for model in (whole, graph)
    ]
    assert weights[0] == weights[1]
    with pytest.raises(BuildError, match="a graph without weights"):
        PortableSource(report.model)


def test_graph_only_has_nothing_to_quantise(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="graph_only is set"):
        export_portable(tmp_path, tmp_path / "x", graph_only=True, transform=lambda _: None)
