"""INT4 linears of target `trt-plugin`: counted, exact, and the same model as without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnx_ir as ir
from target_graph import TracedOnce, precision_of, small_profile, write_graph

from edgellama.optimize.kernels.int4_layout import unpack_codes
from edgellama.optimize.kernels.model_kernels import model_specs
from edgellama.optimize.quantization import Quantization
from edgellama.optimize.target_session import TargetSession
from edgellama.optimize.targets.table import TARGETS
from edgellama.profiles.kernels import Kernels
from edgellama.profiles.profile import Precision, Profile

LAYERS, CAPACITY = 2, 48


@dataclass(frozen=True)
class Model:
    """A small model whose widths are whole groups of 128, and where its graphs go."""

    source: TracedOnce
    folder: Path


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Model:
    folder = make_checkpoint(
        hidden_size=128, intermediate_size=256, head_dim=32, tie_word_embeddings=request.param
    )
    return Model(TracedOnce(folder), tmp_path_factory.mktemp("graphs"))


def precision(embedding: str = "fp32", compute: str = "fp32") -> Precision:
    wanted = precision_of("int4_rtn", compute, embedding, block_size=128)
    return replace(wanted, embedding=embedding)


def profile(wanted: Precision, *, int4: bool) -> Profile:
    made = small_profile("trt-plugin", wanted, slots=2, capacity=CAPACITY)
    return replace(made, kernels=Kernels("cubin", int4_linear=int4))


def write(model: Model, wanted: Precision, *, int4: bool) -> TargetSession:
    folder = model.folder / f"{wanted.embedding}-{wanted.compute}-{int4}"
    manifest = write_graph(model.source, folder, profile(wanted, int4=int4))
    return TargetSession(folder / "model.onnx", manifest.kv, manifest.model.vocab_size)


@pytest.mark.parametrize("embedding", ["fp32", "int4_rtn"])
def test_the_pass_fires_on_every_linear_of_the_layers(model: Model, embedding: str) -> None:
    wanted = precision(embedding)
    graph = model.source.graph(Quantization(wanted))
    made = profile(wanted, int4=True)
    for step in TARGETS["trt-plugin"].steps(model.source.model, made, CAPACITY):
        assert step.run(graph) == step.expected, step.name
    kinds = Counter(node.op_type for node in graph.graph)
    head = embedding == "int4_rtn" and not model.source.model.tie_word_embeddings
    assert kinds["Int4Linear"] == 4 * LAYERS + head
    assert kinds["MatMul"] == 1 - head, "the head, where it is a float or the embedding too"
    weights = [
        value for node in graph.graph if node.op_type == "Int4Linear" for value in node.inputs[1:]
    ]
    assert [value.dtype for value in weights] == [ir.DataType.INT8, ir.DataType.FLOAT] * (
        4 * LAYERS + head
    )


def test_codes_and_scales_are_those_of_the_quantised_graph(model: Model) -> None:
    """W[K, N] with blocks along axis 0 there, [N, K / 2] and [N, K / 128] here."""
    plain, packed = (write(model, precision(), int4=int4) for int4 in (False, True))
    plain.close()
    packed.close()
    ours = ir.load(model.folder / "fp32-fp32-True" / "model.onnx").graph.initializers
    theirs = ir.load(model.folder / "fp32-fp32-False" / "model.onnx").graph.initializers
    names = [name.removesuffix(".packed") for name in ours if name.endswith(".packed")]
    assert len(names) == 4 * LAYERS
    for name in names:
        codes = unpack_codes(ours[f"{name}.packed"].const_value.numpy())
        wanted = theirs[f"{name}.codes"].const_value.numpy()
        assert (codes == wanted.astype(np.int8).T).all()
        scales = ours[f"{name}.packed.scales"].const_value.numpy()
        assert (scales == theirs[f"{name}.scales"].const_value.numpy().T).all()


def test_the_model_says_the_same(model: Model) -> None:
    """In float32: the codes are the same, and the sums of one product after another nearly."""
    ids = list(range(40, 70))
    said = []
    for int4 in (False, True):
        session = write(model, precision(), int4=int4)
        said.append(
            np.concatenate(
                [session.run_tokens(1, ids[:17], 0), session.run_tokens(1, ids[17:], 17)]
            )
        )
    assert np.abs(said[0] - said[1]).max() <= 1e-4 * np.abs(said[0]).max()


def test_weights_are_stored_once(model: Model) -> None:
    write(model, precision(), int4=True).close()
    graph = onnx.load(
        model.folder / "fp32-fp32-True" / "model.onnx", load_external_data=False
    ).graph
    assert not any(weight.name.endswith(".codes") for weight in graph.initializer)
    assert "DequantizeLinear" not in {node.op_type for node in graph.node}


def test_its_kernels_are_compiled_with_the_others(model: Model) -> None:
    wanted = precision("fp16", "fp16")
    for int4 in (False, True):
        ops = Counter(
            spec.op for spec in model_specs(model.source.model, profile(wanted, int4=int4))
        )
        assert ops["Int4Linear"] == (3 if int4 else 0)
        assert ops["FusedGQAPieces"] == 2 and ops["CombinePieces"] == 1
