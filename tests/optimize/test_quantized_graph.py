"""Quantised portable graphs compute what their codes say, and engines of them the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import ml_dtypes
import onnx_ir as ir
import onnxruntime as ort
from made_scales import make_scales
from numpy_llama import NumpyLlama

from edgellama.export.stored import StoredLinear
from edgellama.export.to_onnx import export_portable
from edgellama.optimize import quantized_graph
from edgellama.optimize.passes.integer_rows import fuse_integer_rows
from edgellama.optimize.pipeline import BuildError, run_passes
from edgellama.optimize.portable_session import PortableSession
from edgellama.optimize.pre_scale_places import PreScales
from edgellama.optimize.quantized_graph import quantize_portable
from edgellama.optimize.recipes import layer_linears
from edgellama.optimize.stored_weights import StoredWeights
from edgellama.optimize.targets.ort import finish_interface, ort_steps
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Precision

IDS = [256, *range(60, 82)]
CHUNKS = (9, 1, 13)
CAPACITY = 64
BLOCK = 32


@dataclass(frozen=True)
class Case:
    """A random model: its plain logits, its portable graph, what its linears read."""

    llama: NumpyLlama
    model: ModelConfig
    portable: Path

    def graph(self) -> ir.Model:
        return ir.load(self.portable)


SHAPES = {
    # tied, grouped heads of 2, head size 16
    "tied": {},
    # untied, as many key heads as query heads, heads of 64 (no padding), a short last block
    "plain": {
        "tie_word_embeddings": False,
        "hidden_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 160,
    },
    # one key head for four, heads of 8: padded by the target
    "narrow": {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 1},
}


@pytest.fixture(scope="module", params=SHAPES)
def case(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Case]:
    folder = make_checkpoint(**SHAPES[request.param])
    out = tmp_path_factory.mktemp("portable") / "model"
    export_portable(folder, out)
    llama = NumpyLlama(folder)
    yield Case(llama, llama.model, out / "model.onnx")


def precision(weights: str, embedding: str = "fp32", kv: str = "fp32") -> Precision:
    return Precision(weights=weights, embedding=embedding, kv=kv, block_size=BLOCK)


def portable_logits(model: ir.Model, config: ModelConfig, folder: Path) -> np.ndarray:
    """Run a graph in chunks, node by node as it says: fusions would round activations."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    ir.save(model, path, external_data="model.onnx.data")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    empty = np.zeros((1, config.num_kv_heads, 0, config.head_dim), np.float32)
    names = [f"{n}.{kind}" for n in range(config.num_layers) for kind in ("key", "value")]
    past = {f"past_key_values.{name}": empty for name in names}
    rows, start = [], 0
    for count in CHUNKS:
        feed = {
            "input_ids": np.array([IDS[start : start + count]], np.int64),
            "position_ids": np.arange(start, start + count, dtype=np.int64)[None],
        }
        wanted = ["logits", *(f"present.{name}" for name in names)]
        logits, *present = session.run(wanted, {**feed, **past})
        past = {f"past_key_values.{n}": value for n, value in zip(names, present, strict=True)}
        rows.append(logits[0])
        start += count
    return np.concatenate(rows)


def engine_logits(model: ir.Model, config: ModelConfig, folder: Path) -> np.ndarray:
    """Run an engine graph in chunks over a cache shared by past and present.

    `MatMulNBits` computes in float32 here, not on activations rounded to int8.
    """
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    finish_interface(model)
    ir.save(model, path, external_data="model.onnx.data")
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(int8)": np.int8}
    caches = {
        value.name: ort.OrtValue.ortvalue_from_numpy(
            np.zeros((1, value.shape[1], CAPACITY, value.shape[3]), types[value.type])
        )
        for value in session.get_inputs()
        if "past_key_values." in value.name
    }
    is_mixed = any(value.name == "chunk_rows" for value in session.get_inputs())
    prefix = "chunk_" if is_mixed else ""
    rows, start = [], 0
    for count in CHUNKS:
        binding = session.io_binding()
        feed = {
            "input_ids": np.array([IDS[start : start + count]], np.int64),
            "logits_indices": np.arange(count, dtype=np.int64),
            f"{prefix}seqlens_k": np.array([start + count - 1], np.int32),
            f"{prefix}total_sequence_length": np.array(start + count, np.int32),
        }
        if prefix:
            feed |= {
                "decode_rows": np.array([[0]], np.int64),  # nobody reads it: a spare cache
                "chunk_rows": np.arange(count)[None],
                "token_order": np.arange(1, count + 1)[None],
                "seqlens_k": np.zeros(1, np.int32),
                "total_sequence_length": np.array(1, np.int32),
            }
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)
        for name, cache in caches.items():
            binding.bind_ortvalue_input(name, cache)
            present = name.replace("past_key_values.", "present.")
            binding.bind_ortvalue_output(present, cache)
        binding.bind_output("logits")
        session.run_with_iobinding(binding)
        rows.append(binding.get_outputs()[-1].numpy())
        start += count
    return np.concatenate(rows)


def compare(ours: np.ndarray, expected: np.ndarray, bar: float) -> None:
    """Hold the largest error to a share of the largest logit."""
    assert np.abs(ours - expected).max() <= bar * np.abs(expected).max()


@pytest.mark.parametrize(
    ("weights", "embedding"),
    [
        ("int8", "fp32"),
        ("int8", "int4_rtn"),
        ("int4_rtn", "int8"),
        ("int4_awq", "fp32"),
        ("int4_awq", "bf16"),
        ("fp16", "int8"),
        ("bf16", "fp16"),
    ],
)
def test_weights_compute_what_their_codes_say(
    case: Case, tmp_path: Path, weights: str, embedding: str
) -> None:
    wanted = precision(weights, embedding)
    scales = make_scales(case.llama, IDS, BLOCK, weights, None) if weights == "int4_awq" else None
    expected = case.llama.logits(IDS, StoredWeights(case.model, wanted, scales))
    graph = case.graph()
    quantize_portable(graph, case.model, wanted, scales)
    assert {node.domain for node in graph.graph} == {""}, "standard operators only"
    compare(portable_logits(graph, case.model, tmp_path / "portable"), expected, 1e-5)
    run_passes(graph, ort_steps(case.model, wanted, CAPACITY))
    kinds = Counter(node.op_type for node in graph.graph)
    assert kinds["DequantizeLinear"] == kinds["QuantizeLinear"] == 0
    compare(engine_logits(graph, case.model, tmp_path / "engine"), expected, 2e-5)


@pytest.mark.parametrize("weights", ["fp8", "int8_sq"])
def test_quantised_inputs_compute_what_their_codes_say(
    case: Case, tmp_path: Path, weights: str
) -> None:
    wanted = precision(weights)
    scales = make_scales(case.llama, IDS, BLOCK, weights, None)
    stored = StoredWeights(case.model, wanted, scales)
    expected = case.llama.logits(IDS, stored)
    graph = case.graph()
    quantize_portable(graph, case.model, wanted, scales)
    rounded = sum(node.op_type == "QuantizeLinear" for node in graph.graph)
    assert rounded == 4 * case.model.num_layers, "q, k, v and gate, up share one"
    ours = portable_logits(graph, case.model, tmp_path / "portable")
    # A value that lies next to a tie may round the other way after sums in another order; most do
    # not.
    compare(ours, expected, 5e-2)
    assert np.median(np.abs(ours - expected)) <= 2e-3 * np.abs(expected).max()
    plain = case.llama.logits(IDS)
    assert np.abs(ours - expected).mean() < 0.3 * np.abs(plain - expected).mean()
    run_passes(graph, ort_steps(case.model, wanted, CAPACITY))
    kinds = Counter(node.op_type for node in graph.graph)
    assert kinds["DequantizeLinear"] == 0
    assert kinds["MatMulIntegerToFloat"] == (5 * case.model.num_layers if weights != "fp8" else 0)
    engine = engine_logits(graph, case.model, tmp_path / "engine")
    compare(engine, expected, 5e-2)
    assert np.median(np.abs(engine - expected)) <= 2e-3 * np.abs(expected).max()


class RowInputs(StoredWeights):
    """Inputs rounded with a step for each token, as the engine's operators say."""

    @property
    def rounds_inputs(self) -> bool:
        return True

    def inputs(self, name: str, x: np.ndarray) -> np.ndarray:
        if "layers." not in name:
            return x
        step = np.maximum(np.abs(x).max(-1, keepdims=True) / np.float32(127), np.float32(1e-30))
        return np.asarray(np.rint(x / step) * step, np.float32)


def test_inputs_rounded_row_by_row_compute_what_their_codes_say(case: Case, tmp_path: Path) -> None:
    wanted = precision("int8_rows")
    weights_only = case.llama.logits(IDS, StoredWeights(case.model, wanted))
    expected = case.llama.logits(IDS, RowInputs(case.model, wanted))
    graph = case.graph()
    quantize_portable(graph, case.model, wanted)
    compare(portable_logits(graph, case.model, tmp_path / "portable"), weights_only, 1e-5)
    run_passes(graph, ort_steps(case.model, wanted, CAPACITY))
    assert fuse_integer_rows(graph) == 0, "fired again"
    kinds = Counter(node.op_type for node in graph.graph)
    layers = case.model.num_layers
    assert kinds["MatMulIntegerToFloat"] == 5 * layers and kinds["DequantizeLinear"] == 0
    assert kinds["QuantizeLinear"] == 4 * layers, "gate and up share one"
    engine = engine_logits(graph, case.model, tmp_path / "engine")
    # As above: a value next to a tie may round the other way.
    compare(engine, expected, 5e-2)
    assert np.median(np.abs(engine - expected)) <= 2e-3 * np.abs(expected).max()
    lost = np.abs(engine - weights_only).mean()
    assert np.abs(engine - expected).mean() < 0.3 * lost, "a step a token, and no other"


def test_the_portable_session_computes_what_the_graph_says(case: Case, tmp_path: Path) -> None:
    """With onnxruntime's own fusions, which must not round what the graph does not."""
    for weights, embedding, kv in (
        ("int4_awq", "int8", "fp8"),
        ("int8", "int4_rtn", "int8"),
        ("int8_sq", "bf16", "fp32"),
        ("fp8", "fp16", "fp8"),
    ):
        wanted = precision(weights, embedding, kv)
        scales = make_scales(
            case.llama,
            IDS,
            BLOCK,
            None if weights == "int8" else weights,
            None if kv == "fp32" else kv,
        )
        graph = case.graph()
        quantize_portable(graph, case.model, wanted, scales)
        expected = portable_logits(graph, case.model, tmp_path / weights)
        ours = PortableSession(tmp_path / weights / "model.onnx", case.model).logits(IDS, CHUNKS)
        error = np.abs(ours - expected)
        assert np.median(error) <= 1e-4 * np.abs(expected).max(), (weights, kv)
        assert error.max() <= 5e-2 * np.abs(expected).max(), (weights, kv)


@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize("kv", ["int8", "fp8"])
def test_a_rounded_cache(case: Case, tmp_path: Path, kv: str, per_tensor: bool) -> None:
    wanted = precision("fp32", kv=kv)
    scales = make_scales(case.llama, IDS, BLOCK, None, kv, per_tensor=per_tensor)
    expected = case.llama.logits(IDS, StoredWeights(case.model, wanted, scales))
    graph = case.graph()
    quantize_portable(graph, case.model, wanted, scales)
    ours = portable_logits(graph, case.model, tmp_path / "portable")
    compare(ours, expected, 2e-2)
    assert np.median(np.abs(ours - expected)) <= 1e-4 * np.abs(expected).max()
    if kv == "fp8":
        with pytest.raises(BuildError, match=r"use precision.kv 'int8' or 'fp32'"):
            run_passes(graph, ort_steps(case.model, wanted, CAPACITY))
        return
    run_passes(graph, ort_steps(case.model, wanted, CAPACITY))
    attention = next(node for node in graph.graph if node.op_type == "GroupQueryAttention")
    assert attention.inputs[3] is not None and attention.inputs[3].dtype == ir.DataType.INT8
    engine = engine_logits(graph, case.model, tmp_path / "engine")
    compare(engine, expected, 2e-2)
    assert np.median(np.abs(engine - expected)) <= 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("kv", ["fp32", "int8"])
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("weights", ["int4_awq", "int8_sq"])
def test_pre_scales_are_folded_where_that_is_exact(
    case: Case, weights: str, equal: bool, kv: str
) -> None:
    model = case.model
    scales = make_scales(case.llama, IDS, BLOCK, weights, None if kv == "fp32" else kv, equal=equal)
    counts = quantize_portable(case.graph(), model, precision(weights, kv=kv), scales)
    of_values = kv == "fp32" and (equal or model.num_heads == model.num_kv_heads)
    layers = model.num_layers
    assert counts["fold_into_norms"] == 2 * layers
    assert counts["fold_into_outputs"] == (2 * layers if of_values else layers)
    assert counts.get("scale_inputs", 0) == (0 if of_values else layers)


def test_folding_changes_nothing(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same codes, with every pre-scale folded and with a multiplication each."""
    wanted = precision("int4_awq")
    scales = make_scales(case.llama, IDS, BLOCK, "int4_awq", None, equal=True)
    folded, multiplied = case.graph(), case.graph()
    quantize_portable(folded, case.model, wanted, scales)
    inputs = {name: linear.pre_scale for name, linear in scales.linears.items()}
    none = PreScales({}, {}, {name: s for name, s in inputs.items() if s is not None})
    monkeypatch.setattr(quantized_graph, "place_pre_scales", lambda *_, **__: none)
    counts = quantize_portable(multiplied, case.model, wanted, scales)
    assert counts["scale_inputs"] == len(scales.linears)
    expected = portable_logits(multiplied, case.model, tmp_path / "multiplied")
    compare(portable_logits(folded, case.model, tmp_path / "folded"), expected, 1e-5)


def test_stored_codes_are_used_as_they_are(case: Case, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    linears = {}
    for name, (outputs, inputs) in layer_linears(case.model).items():
        blocks = -(-inputs // BLOCK)
        if inputs % BLOCK:
            pytest.skip("checkpoints have whole blocks")
        linears[name] = StoredLinear(
            "int4_awq",
            rng.integers(-8, 8, (outputs, inputs)).astype(np.int8),
            rng.uniform(0.01, 0.05, (outputs, blocks)).astype(np.float32),
            BLOCK,
        )
    wanted = precision("int4_awq")
    expected = case.llama.logits(IDS, StoredWeights(case.model, wanted, None, linears.get))
    graph = case.graph()
    quantize_portable(graph, case.model, wanted, None, linears.get)
    name = next(iter(linears))
    codes = graph.graph.initializers[f"{name}.codes"].const_value
    assert codes is not None
    np.testing.assert_array_equal(codes.numpy().astype(np.int8).T, linears[name].codes)
    compare(portable_logits(graph, case.model, tmp_path / "portable"), expected, 1e-5)
    with pytest.raises(BuildError, match="set it to 32"):
        other = replace(wanted, block_size=64)
        quantize_portable(case.graph(), case.model, other, None, linears.get)


def test_a_graph_read_back_makes_the_same_engine(case: Case, tmp_path: Path) -> None:
    """The portable file is the artefact: what a target makes of it does not depend on how it came
    about."""
    for weights in ("int4_awq", "int8_sq", "fp8", "bf16"):
        wanted = precision(weights, "int4_rtn")
        scales = None if weights == "bf16" else make_scales(case.llama, IDS, BLOCK, weights, None)
        graph = case.graph()
        quantize_portable(graph, case.model, wanted, scales)
        path = tmp_path / f"{weights}.onnx"
        ir.save(graph, path, external_data=f"{weights}.data")
        again = ir.load(path)
        for model in (graph, again):
            run_passes(model, ort_steps(case.model, wanted, CAPACITY))
        assert [n.op_type for n in graph.graph] == [n.op_type for n in again.graph]
        for name, value in graph.graph.initializers.items():
            tensor, other = value.const_value, again.graph.initializers[name].const_value
            assert tensor is not None and other is not None and tensor.dtype == other.dtype
            assert tensor.tobytes() == other.tobytes(), name


def test_missing_scales_are_refused_by_name(case: Case) -> None:
    for weights in ("int4_awq", "fp8", "int8_sq"):
        with pytest.raises(BuildError, match=r"no such scales of model\.layers\.0\.self_attn\.q"):
            quantize_portable(case.graph(), case.model, precision(weights))
    with pytest.raises(BuildError, match=r"kv is 'int8' but there are no such scales"):
        quantize_portable(case.graph(), case.model, precision("fp32", kv="int8"))
    scales = make_scales(case.llama, IDS, BLOCK, "int4_awq", None)
    with pytest.raises(BuildError, match="block_size is 64; set it to 32"):
        quantize_portable(
            case.graph(), case.model, replace(precision("int4_awq"), block_size=64), scales
        )


def test_modelopt_rounds_to_the_same_codes() -> None:
    tensor_quant = pytest.importorskip("modelopt.torch.quantization.tensor_quant")
    torch = pytest.importorskip("torch")
    from edgellama.optimize.quantized_weight import CalibratedWeight, Layout

    rng = np.random.default_rng(2)
    weight = rng.standard_normal((16, 64)).astype(np.float32)
    blocks = np.abs(weight).reshape(16, 2, BLOCK)
    layout = Layout(16, 64, ir.DataType.INT4, BLOCK)
    source = CalibratedWeight(ir.tensor(weight.T.copy()), layout, blocks.max(2), None)
    (part,) = source.slices()
    ours = part.codes.reshape(16, 2, BLOCK) * part.scales[:, :, None]
    theirs = tensor_quant.fake_tensor_quant(
        torch.from_numpy(weight.reshape(-1, BLOCK)),
        torch.from_numpy(blocks.max(2).reshape(-1, 1)),
        None,
        4,
        False,
        False,
    )
    np.testing.assert_allclose(ours.reshape(-1, BLOCK), theirs.numpy(), rtol=1e-6)
    layout = Layout(16, 64, ir.DataType.FLOAT8E4M3FN, 0, per_tensor=True)
    amax = np.abs(weight).max()
    source = CalibratedWeight(ir.tensor(weight.T.copy()), layout, np.array(amax), None)
    (part,) = source.slices()
    assert part.codes.dtype == ml_dtypes.float8_e4m3fn
    theirs = tensor_quant.fp8_eager(torch.from_numpy(weight), torch.tensor(amax)).numpy()
    np.testing.assert_allclose(part.codes.astype(np.float32) * part.scales, theirs, rtol=1e-6)
