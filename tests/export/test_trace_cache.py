"""A trace that was kept is used for what it was made for, and for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx_ir")

import numpy as np
import onnx_ir as ir
from transformers import LlamaConfig

from edgellama.export import trace_cache
from edgellama.export.trace_cache import kept_trace


class Tracer:
    """Makes a graph of one weight without data and one constant, and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, config: LlamaConfig, dtype: str) -> ir.Model:
        self.count += 1
        kind = ir.TensorType(ir.DataType.FLOAT if dtype == "float32" else ir.DataType.FLOAT16)
        width = config.hidden_size
        read = ir.Value(name="x", type=kind, shape=ir.Shape(["batch", width]))
        weight = ir.Value(name="w", type=kind, shape=ir.Shape([width, width]))
        angles = ir.tensor(np.float32([1, 0.5]), name="angles")
        constant = ir.Value(name="angles", const_value=angles)
        product = ir.node("MatMul", [read, weight])
        graph = ir.Graph(
            [read],
            product.outputs,
            nodes=[product],
            initializers=[weight, constant],
            opset_imports={"": 23},
        )
        return ir.Model(graph, ir_version=10)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgellama" / "traces"


def config(**overrides: Any) -> LlamaConfig:
    return LlamaConfig(**{"hidden_size": 64, "num_attention_heads": 4, **overrides})


def test_a_second_build_does_not_trace(folder: Path) -> None:
    tracer = Tracer()
    first = kept_trace(config(), "float16", tracer)
    again = kept_trace(config(), "float16", tracer)
    assert tracer.count == 1
    assert ir.to_proto(first) == ir.to_proto(again)
    weight, constant = again.graph.initializers.values()
    assert (weight.name, weight.dtype, weight.const_value) == ("w", ir.DataType.FLOAT16, None)
    assert weight.shape == ir.Shape([64, 64])
    assert constant.const_value is not None
    assert constant.const_value.numpy().tolist() == [1, 0.5]


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 128},
        {"tie_word_embeddings": True},
        {"rms_norm_eps": 1e-5},
        {"head_dim": 32},
        {"attention_bias": True},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_configuration_is_traced(folder: Path, change: dict[str, Any]) -> None:
    tracer = Tracer()
    kept_trace(config(), "float32", tracer)
    kept_trace(config(**change), "float32", tracer)
    assert tracer.count == 2 and len(list(folder.iterdir())) == 2


def test_what_no_graph_depends_on_is_no_other_configuration(folder: Path) -> None:
    tracer = Tracer()
    kept_trace(config(), "float32", tracer)
    kept_trace(config(eos_token_id=[7, 8], initializer_range=0.5), "float32", tracer)
    assert tracer.count == 1


def test_another_type_or_library_traces_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracer = Tracer()
    kept_trace(config(), "float32", tracer)
    kept_trace(config(), "float16", tracer)
    monkeypatch.setattr(trace_cache, "version", lambda name: f"another {name}")
    kept_trace(config(), "float32", tracer)
    assert tracer.count == 3


@pytest.mark.parametrize("keep", [0, 20, -1], ids=["empty", "half a digest", "cut"])
def test_a_damaged_trace_is_made_again(folder: Path, keep: int) -> None:
    tracer = Tracer()
    first = kept_trace(config(), "float32", tracer)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:keep])
    assert ir.to_proto(kept_trace(config(), "float32", tracer)) == ir.to_proto(first)
    kept_trace(config(), "float32", tracer)
    assert tracer.count == 2 and list(folder.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(folder: Path) -> None:
    folder.parent.write_text("a file is in the way")
    with pytest.raises(OSError, match="edgellama"):
        kept_trace(config(), "float32", Tracer())


def test_a_failed_trace_keeps_nothing(folder: Path) -> None:
    def failing(_config: LlamaConfig, _dtype: str) -> ir.Model:
        raise RuntimeError("the exporter's graph has changed")

    with pytest.raises(RuntimeError, match="has changed"):
        kept_trace(config(), "float32", failing)
    assert not folder.exists()
