"""Every pass fires as often as the model's shape says, once, and leaves the numbers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnx_ir as ir

from edgellama.export.to_onnx import export_portable
from edgellama.optimize.passes.gqa import fuse_gqa
from edgellama.optimize.passes.half_storage import store_half
from edgellama.optimize.passes.mixed_attention import mixed_attention
from edgellama.optimize.passes.pack_linears import QKV, pack_linears
from edgellama.optimize.passes.rms_norm import fuse_rms_norm
from edgellama.optimize.passes.rotary import angle_tables, fuse_rotary
from edgellama.optimize.passes.skip_rms_norm import fuse_skip_rms_norm
from edgellama.optimize.pipeline import BuildError, PassStep, run_passes
from edgellama.optimize.portable_session import PortableSession
from edgellama.optimize.quantized_graph import quantize_portable
from edgellama.optimize.targets.ort import ort_steps
from edgellama.profiles.model import ModelConfig, read_model_config
from edgellama.profiles.profile import Precision

IDS = [256, *range(60, 90)]
LAYERS = 2


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


@pytest.fixture(scope="module")
def portable(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("portable") / "model"
    export_portable(checkpoint, out)
    return out / "model.onnx"


@pytest.fixture(scope="module")
def config(checkpoint: Path) -> ModelConfig:
    return read_model_config(checkpoint)


@pytest.fixture(scope="module")
def expected(portable: Path, config: ModelConfig) -> np.ndarray:
    return PortableSession(portable, config).logits(IDS)


@pytest.fixture
def model(portable: Path) -> ir.Model:
    return ir.load(portable)


STANDARD: list[tuple[str, Callable[[ir.Model], int], int]] = [
    ("rms_norm", fuse_rms_norm, 2 * LAYERS + 1),
    ("rotary", lambda model: fuse_rotary(model, rows=64), 2 * LAYERS),
    ("pack_qkv", lambda model: pack_linears(model, QKV), LAYERS),
    ("skip_rms_norm", fuse_skip_rms_norm, 2 * LAYERS),
]


def test_passes_that_keep_the_interface_keep_the_logits(
    model: ir.Model, config: ModelConfig, expected: np.ndarray, tmp_path: Path
) -> None:
    for name, run, count in STANDARD:
        assert run(model) == count, name
        assert run(model) == 0, f"{name} fired again"
        path = tmp_path / name / "model.onnx"
        path.parent.mkdir()
        ir.save(model, path, external_data="model.onnx.data")
        logits = PortableSession(path, config).logits(IDS, [9, 1, 21])
        np.testing.assert_allclose(
            logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max(), err_msg=name
        )


def test_gqa_replaces_attention_mask_and_positions(model: ir.Model) -> None:
    for _, run, _ in STANDARD[:3]:
        run(model)
    assert fuse_gqa(model) == LAYERS
    assert fuse_gqa(model) == 0
    kinds = Counter(node.op_type for node in model.graph)
    assert kinds["GroupQueryAttention"] == LAYERS
    assert not {"Attention", "RotaryEmbedding", "Split", "LessOrEqual", "Range"} & set(kinds)
    names = [value.name for value in model.graph.inputs]
    assert "position_ids" not in names
    assert {"seqlens_k", "total_sequence_length"} <= set(names)


def test_rows_and_a_chunk_attend_apart(model: ir.Model) -> None:
    for _, run, _ in STANDARD[:3]:
        run(model)
    assert mixed_attention(model) == 0, "nothing is fused yet"
    fuse_gqa(model)
    assert mixed_attention(model) == LAYERS
    assert mixed_attention(model) == 0
    nodes = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    assert len(nodes) == 2 * LAYERS
    rows, chunk = (Counter(node.inputs[n].name for node in nodes) for n in (5, 6))
    assert rows == {"seqlens_k": LAYERS, "chunk_seqlens_k": LAYERS}
    assert chunk == {"total_sequence_length": LAYERS, "chunk_total_sequence_length": LAYERS}
    linears = Counter(node.op_type for node in model.graph)
    assert linears["MatMul"] == 5 * LAYERS + 1, "each weight is read once"
    outputs = {value.name for value in model.graph.outputs}
    assert {"present.0.key", "chunk_present.0.key", "chunk_present.1.value"} <= outputs


def test_gqa_declines_without_its_forerunners(model: ir.Model) -> None:
    assert fuse_gqa(model) == 0
    assert sum(node.op_type == "Attention" for node in model.graph) == LAYERS


def test_a_changed_norm_is_declined_and_fails_the_build(
    model: ir.Model, config: ModelConfig
) -> None:
    power = next(node for node in model.graph if node.op_type == "Pow")
    exponent = ir.Value(name="cube", const_value=ir.tensor(np.float32(3.0), name="cube"))
    model.graph.register_initializer(exponent)
    power.replace_input_with(1, exponent)
    step = PassStep("rms_norm", fuse_rms_norm, 2 * LAYERS + 1)
    with pytest.raises(BuildError, match=f"rms_norm fired {2 * LAYERS} times"):
        run_passes(model, (step,))


@pytest.mark.parametrize("embedding", ["fp32", "fp16", "int8", "int4_rtn"])
@pytest.mark.parametrize("weights", ["fp32", "fp16", "int8", "int4_rtn"])
def test_every_precision_reaches_its_counts(
    model: ir.Model, config: ModelConfig, weights: str, embedding: str
) -> None:
    precision = Precision(weights=weights, embedding=embedding, kv="fp32", block_size=32)
    quantize_portable(model, config, precision)
    counts = run_passes(model, ort_steps(config, precision, 64))
    assert counts["gqa"] == LAYERS
    kinds = Counter(node.op_type for node in model.graph)
    quantized_layers = 5 * LAYERS if weights in ("int8", "int4_rtn") else 0
    quantized_head = 1 if embedding in ("int8", "int4_rtn") else 0
    assert kinds["MatMulNBits"] == quantized_layers + quantized_head
    assert kinds["MatMul"] == 5 * LAYERS + 1 - quantized_layers - quantized_head
    assert kinds["GatherBlockQuantized"] == quantized_head
    assert kinds["DequantizeLinear"] == 0
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            assert len(node.inputs) == 3, "a zero point or group index loses the fast kernel"


def test_angle_tables_agree_with_the_definition() -> None:
    inverse = (1 / 10000 ** (np.arange(0, 16, 2) / 16)).astype(np.float32)
    cos, sin = angle_tables(inverse, 40)
    assert cos.shape == sin.shape == (40, 8)
    np.testing.assert_allclose(cos[17, 3], np.cos(17 * 1 / 10000 ** (6 / 16)), rtol=1e-5)
    np.testing.assert_allclose(cos**2 + sin**2, 1, rtol=1e-6)


def test_a_weight_beyond_half_precision_is_refused_by_name() -> None:
    x = ir.val("x", ir.DataType.FLOAT, [1, 1])
    weight = ir.Value(
        name="w", const_value=ir.tensor(np.array([[1e6]], np.float32)), shape=ir.Shape([1, 1])
    )
    node = ir.node("MatMul", inputs=[x, weight])
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 23})
    model = ir.Model(graph, ir_version=10)
    assert store_half(model, lambda name: name == "w", ir.DataType.FLOAT16) == 1
    with pytest.raises(BuildError, match=r"weight w exceeds .*1e\+06"):
        graph.initializers["w.half"].const_value.numpy()
