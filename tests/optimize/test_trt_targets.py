"""The graphs for TensorRT: passes, interface, and numbers on ONNX Runtime's CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnx
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st
from llamas import MODELS
from made_scales import make_scales
from numpy_llama import NumpyLlama
from safetensors.numpy import load_file, save_file
from target_graph import TracedOnce, precision_of, small_profile, write_graph
from target_scenarios import (
    CAPACITY,
    CHUNK,
    SCENARIOS,
    SEQUENCES,
    SLOTS,
    Reference,
    continue_greedily,
    error_of,
    feed,
    poison,
)

from edgellama.calibration.scales import Scales
from edgellama.optimize.expectation import Expectation
from edgellama.optimize.pipeline import run_passes
from edgellama.optimize.quantization import Quantization
from edgellama.optimize.target_session import TargetSession
from edgellama.optimize.targets.table import TARGETS
from edgellama.optimize.verify import FLOAT_BARS, KERNEL_KL_BAR, verification_fault
from edgellama.optimize.verify_expected import verify_expected
from edgellama.profiles.plan import make_plan
from edgellama.profiles.profile import CALIBRATED_WEIGHTS, Precision, Profile
from edgellama.runtime.manifest import Manifest, TensorInfo
from edgellama.runtime.step import DecodeRow, Step

TARGET_NAMES = ("trt-native", "trt-plugin", "trt-plain")
OPSETS = {"trt-native": 24, "trt-plugin": 23, "trt-plain": 21}
LAYERS, BLOCK = 2, 32
SHAPES = {
    # tied, grouped heads of 2, head size 16
    "tied": {},
    # untied, three query heads a key head, heads of 32 that are wider than the hidden state
    "untied": {
        "tie_word_embeddings": False,
        "hidden_size": 96,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 160,
    },
}
SPELT_OUT = ("trt-native", "trt-plain")  # whose masks and caches are nodes of the graph
targets = pytest.mark.parametrize("target", TARGET_NAMES)


@dataclass(frozen=True)
class Case:
    """A random model, what transformers says, and the folder of what is made of it."""

    source: TracedOnce
    reference: Reference
    llama: NumpyLlama
    folder: Path
    written: dict[tuple[str, Precision], tuple[Path, Manifest]] = field(default_factory=dict)
    said: dict[Precision, Expectation] = field(default_factory=dict)

    def scales(self, precision: Precision) -> Scales | None:
        """Return scales where a precision needs them."""
        if precision.weights not in CALIBRATED_WEIGHTS:
            return None
        return make_scales(self.llama, list(SEQUENCES[4]), BLOCK, precision.weights)

    def graph(self, target: str, precision: Precision) -> tuple[Path, Manifest]:
        """Return the file of a target's graph, and its manifest."""
        if (target, precision) not in self.written:
            folder = self.folder / f"graph-{len(self.written)}"
            profile, scales = profile_of(target, precision), self.scales(precision)
            manifest = write_graph(self.source, folder, profile, scales)
            self.written[target, precision] = folder / "model.onnx", manifest
        return self.written[target, precision]

    def expectation(self, precision: Precision) -> Expectation:
        """Return what the model says, and the one with the weights that a precision stores."""
        if precision not in self.said:
            given = Quantization(precision, self.scales(precision))
            reference, stored = self.source.reference(TEXTS, lambda *_: None, given)
            self.said[precision] = Expectation(TEXTS, tuple(reference), tuple(stored))
        return self.said[precision]

    def session(self, target: str, precision: Precision) -> TargetSession:
        """Return the graph on ONNX Runtime."""
        path, manifest = self.graph(target, precision)
        return TargetSession(path, manifest.kv, manifest.model.vocab_size, threads=1)


def profile_of(target: str, precision: Precision) -> Profile:
    return small_profile(target, precision, slots=SLOTS, capacity=CAPACITY, prefill_chunk=CHUNK)


def round_to_halves(checkpoint: Path) -> None:
    """Give a checkpoint weights that float16 holds, as the published ones have.

    Else a graph that computes in it would round them twice, and an int4 code in a thousand differ.
    """
    file = checkpoint / "model.safetensors"
    weights = {name: array.astype(np.float16) for name, array in load_file(file).items()}
    floats = {name: array.astype(np.float32) for name, array in weights.items()}
    save_file(floats, file, metadata={"format": "pt"})


@pytest.fixture(scope="module", params=SHAPES)
def case(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    folder = make_checkpoint(**SHAPES[request.param])
    round_to_halves(folder)
    reference, llama = Reference(folder), NumpyLlama(folder)
    return Case(TracedOnce(folder), reference, llama, tmp_path_factory.mktemp("graphs"))


PRECISIONS = (
    ("fp16", "fp16"),
    ("int4_rtn", "fp16"),
    ("int4_rtn", "int4_rtn"),
    ("int4_awq", "fp16"),
    ("fp16", "int4_rtn"),
    ("fp8", "fp16"),
    ("int8_sq", "fp16"),
    ("int8", "fp16"),
)
# Blocks of INT8 are refused for target trt-plain.
TEXTS = SEQUENCES[1:4]
CASES = [
    (target, weights, embedding)
    for target in TARGET_NAMES
    for weights, embedding in PRECISIONS
    if (target, weights) != ("trt-plain", "int8")
]
every_precision = pytest.mark.parametrize(("target", "weights", "embedding"), CASES)


@targets
@pytest.mark.parametrize("compute", ["fp32", "fp16"])
def test_every_pass_fires_as_often_as_the_shape_says_and_once(
    case: Case, target: str, compute: str
) -> None:
    precision = precision_of(compute)
    model = case.source.graph(Quantization(precision))
    for step in TARGETS[target].steps(
        case.source.model, small_profile(target, precision), CAPACITY
    ):
        assert step.run(model) == step.expected, step.name
        assert step.run(model) == 0, f"{step.name} fired again"


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def test_native_layers_are_as_many_as_the_shape_says(case: Case) -> None:
    kinds = operators(case.graph("trt-native", precision_of("fp16"))[0])
    assert kinds["Attention"] == LAYERS
    assert kinds["TensorScatter"] == kinds["RotaryEmbedding"] == 2 * LAYERS
    assert kinds["RMSNormalization"] == 2 * LAYERS + 1
    assert kinds["LessOrEqual"] == 1, "one mask for all layers"
    assert kinds["MatMul"] == 4 * LAYERS + 1, "qkv, output, gate and up, down; the head"
    assert kinds["ScatterElements"] == kinds["Softmax"] == 0


def test_plain_layers_are_as_many_as_the_shape_says(case: Case) -> None:
    kinds = operators(case.graph("trt-plain", precision_of("fp16"))[0])
    assert kinds["ScatterElements"] == 2 * LAYERS and kinds["Softmax"] == LAYERS
    assert kinds["MatMul"] == 6 * LAYERS + 1, "the linears, and two products of attention"
    assert kinds["LessOrEqual"] == 1 and kinds["Cos"] == kinds["Sin"] == 0
    assert not {"Attention", "TensorScatter", "RMSNormalization", "RotaryEmbedding"} & set(kinds)


def test_plugins_are_as_many_as_the_shape_says(case: Case) -> None:
    kinds = operators(case.graph("trt-plugin", precision_of("fp16"))[0])
    assert kinds["FusedGQAPieces"] == kinds["CombinePieces"] == LAYERS
    assert kinds["MatMul"] == 4 * LAYERS + 1 and kinds["RMSNormalization"] == 2 * LAYERS + 1
    assert kinds["Range"] == 1, "one table of rows for all layers"
    # The rows are cut off qkv by the plugin: what is split are gate and up.
    assert kinds["Split"] == LAYERS
    assert not {"Attention", "Softmax", "RotaryEmbedding", "LessOrEqual"} & set(kinds)


def test_a_launch_that_fills_the_gpu_cuts_no_past(case: Case) -> None:
    """One of two multiprocessors runs what its two key heads have to do in one piece."""
    precision = precision_of("fp16")
    profile = small_profile("trt-plugin", precision)
    gpu = profile.device.gpu
    assert gpu is not None
    small = replace(gpu, multiprocessors=1)
    tiny = replace(profile, device=replace(profile.device, gpu=small))
    model = case.source.graph(Quantization(precision))
    run_passes(model, TARGETS["trt-plugin"].steps(case.source.model, tiny, CAPACITY))
    kinds = Counter(node.op_type for node in model.graph)
    assert kinds["FusedGQA"] == LAYERS and kinds["FusedGQAPieces"] == kinds["CombinePieces"] == 0


@every_precision
def test_the_interface_is_the_contract(
    case: Case, target: str, weights: str, embedding: str
) -> None:
    path, manifest = case.graph(target, precision_of(weights, "fp16", embedding, BLOCK))
    model = manifest.model
    cache = ("batch", model.num_kv_heads, CAPACITY, model.head_dim)
    names = [f"{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value")]
    assert manifest.inputs == (
        TensorInfo("input_ids", "int64", ("batch", "sequence")),
        TensorInfo("position_ids", "int64", ("batch", "sequence")),
        TensorInfo("write_indices", "int64", ("batch",)),
        TensorInfo("logits_indices", "int64", ("rows",)),
        *(TensorInfo(f"past_key_values.{name}", "float16", cache) for name in names),
    )
    assert manifest.outputs == (
        TensorInfo("logits", "float32", ("rows", model.vocab_size)),
        *(TensorInfo(f"present.{name}", "float16", cache) for name in names),
    )
    onnx.checker.check_model(str(path), full_check=True)
    saved = onnx.load(path, load_external_data=False)
    opset = OPSETS[target]
    own = {"edgellama": 1} if target == "trt-plugin" else {}
    versions = {item.domain: item.version for item in saved.opset_import}
    assert versions == {"": opset, **own}
    assert {node.domain for node in saved.graph.node} == {"", *own}
    assert not saved.functions, "TensorRT would take a body instead of the plugin"
    for kind in {node.op_type for node in saved.graph.node if not node.domain}:
        assert onnx.defs.get_schema(kind, opset, "").since_version <= opset


@every_precision
def test_what_tensorrt_misreads_is_never_there(
    case: Case, target: str, weights: str, embedding: str
) -> None:
    path, _ = case.graph(target, precision_of(weights, "fp16", embedding, BLOCK))
    graph = onnx.load(path, load_external_data=False).graph
    names = {value.name for value in graph.input}
    constants = ir.load(path).graph.initializers
    for node in graph.node:
        attributes = {attribute.name for attribute in node.attribute}
        if node.op_type == "Attention":
            assert attributes == {"scale"}, "no is_causal, no softcap"
            # query, keys, values, mask: neither a past nor nonpad_kv_seqlen
            assert len(node.input) == 4 and all(node.input)
            assert len(node.output) == 1, "no present"
        if node.op_type == "TensorScatter":
            assert node.input[0] in names, "the cache is an input of the network"
            assert "mode" not in attributes
        if node.op_type in ("DequantizeLinear", "QuantizeLinear") and len(node.input) > 2:
            # That of an input says what type its codes have; a weight's codes do themselves.
            assert node.input[0] not in constants
            assert not constants[node.input[2]].const_value.numpy().any(), "a zero point that is 0"


@every_precision
def test_weights_are_stored_once_and_packed(
    case: Case, target: str, weights: str, embedding: str
) -> None:
    precision = precision_of(weights, "fp16", embedding, BLOCK)
    path, manifest = case.graph(target, precision)
    plan = make_plan(manifest.model, profile_of(target, precision))
    data = path.with_name("model.onnx.data").stat().st_size
    # Cosines and sines; the plugin takes them, and the steps of a cache, as float32.
    number = 4 if target == "trt-plugin" else 2
    tables = CAPACITY * manifest.model.head_dim * number
    if target == "trt-plugin":
        tables += manifest.model.kv_size * number
    alignment = 64 * len(onnx.load(path, load_external_data=False).graph.initializer)
    assert plan.weight_bytes <= data + alignment
    assert data <= plan.weight_bytes + tables + alignment


@targets
@pytest.mark.parametrize("compute", ["fp32", "fp16"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_float_graph_says_what_transformers_says(
    case: Case, target: str, compute: str, scenario: str
) -> None:
    session = case.session(target, precision_of(compute))
    assert error_of(scenario, session, case.reference) <= FLOAT_BARS[compute]


@pytest.mark.slow
@targets
@pytest.mark.parametrize("name", MODELS)
def test_the_heads_of_the_profiles_models(
    make_checkpoint: Callable[..., Path], tmp_path: Path, name: str, target: str
) -> None:
    """Heads of 64 and 128, four, three and eight of them to a key head."""
    model = MODELS[name]
    folder = make_checkpoint(
        hidden_size=384,
        head_dim=model.head_dim,
        num_attention_heads=2 * model.num_heads // model.num_kv_heads,
        num_key_value_heads=2,
        tie_word_embeddings=model.tie_word_embeddings,
        initializer_range=0.1,
    )
    case = Case(TracedOnce(folder), Reference(folder), NumpyLlama(folder), tmp_path)
    for compute in ("fp32", "fp16"):
        session = case.session(target, precision_of(compute))
        for scenario in SCENARIOS:
            assert error_of(scenario, session, case.reference) <= FLOAT_BARS[compute], scenario


@targets
def test_greedy_tokens_are_those_of_transformers(case: Case, target: str) -> None:
    session = poison(case.session(target, precision_of("fp32")))
    for slot, ids in enumerate(SEQUENCES):
        prompt = ids[: 4 + 3 * slot]
        wanted = case.reference.greedy(prompt, 12)
        assert continue_greedily(session, slot, prompt, 12) == wanted


@targets
def test_a_step_at_any_lengths(case: Case, target: str) -> None:
    session = case.session(target, precision_of("fp32"))
    bar = FLOAT_BARS["fp32"] * case.reference.largest

    @settings(max_examples=25, deadline=None)
    @given(
        st.permutations(range(SLOTS)),
        st.lists(st.integers(0, 12), min_size=SLOTS, max_size=SLOTS),
        st.integers(1, 12),
    )
    def check(order: list[int], lengths: list[int], chunk: int) -> None:
        """Any sequence in any slot, a length of 0 is an idle one."""
        poison(session)
        for slot, length in enumerate(lengths):
            if length:
                feed(session, slot, SEQUENCES[order[slot]][:length], chunk)
        rows = tuple(
            DecodeRow(slot, SEQUENCES[order[slot]][length], length)
            for slot, length in enumerate(lengths)
            if length
        )
        logits = session.run(Step(rows, None, tuple(lengths)))
        for row, drawn in zip(rows, logits, strict=True):
            theirs = case.reference.logits[order[row.slot]][row.position]
            assert np.abs(drawn - theirs).max() <= bar

    check()


# Mean divergence in nats from the model with the very weights that the graph stores, computed in
# float32; the second bar is for formats that round activations as well: a value next to a tie may
# round the other way after sums in another order, which is worth more than all the rest.
KERNEL_KL = {"fp32": (1e-8, KERNEL_KL_BAR), "fp16": (1e-4, KERNEL_KL_BAR)}


@every_precision
@pytest.mark.parametrize("compute", ["fp32", "fp16"])
def test_a_precision_says_what_its_weights_say(
    case: Case, target: str, weights: str, embedding: str, compute: str
) -> None:
    if compute == "fp32":  # which no engine has, and which shows that nothing else is rounded
        weights, embedding = (compute if x == "fp16" else x for x in (weights, embedding))
    precision = precision_of(weights, compute, embedding, BLOCK)
    session = poison(case.session(target, precision))
    result = verify_expected(session, case.expectation(precision), CHUNK)
    assert verification_fault(result, precision) is None
    assert result.kernel_kl_mean <= KERNEL_KL[compute][weights in ("fp8", "int8_sq")]
    if {weights, embedding} != {compute}:
        assert result.kl_mean > 2 * result.kernel_kl_mean, "what the precision loses is more"


def change_mask(model: ir.Model, by: int) -> None:
    """Let a token see one position more (-1), or not itself (+1)."""
    index = model.graph.initializers["cache.index"]
    assert index.const_value is not None
    index.const_value = ir.tensor(index.const_value.numpy() + by, name=index.name)


def only_causal(model: ir.Model) -> None:
    """Say `is_causal` instead of what is seen."""
    for node in model.graph:
        if node.op_type == "Attention":
            node.replace_input_with(3, None)
            node.attributes["is_causal"] = ir.AttrInt64("is_causal", 1)


def joined_past(model: ir.Model) -> None:
    """Join new keys and values behind the past for attention, as a growing cache has them."""
    for node in list(model.graph):
        if node.op_type != "Attention":
            continue
        for place in (1, 2):
            cache = node.inputs[place]
            assert cache is not None
            scatter = cache.producer()
            assert scatter is not None
            join = ir.node("Concat", scatter.inputs[:2], attributes={"axis": 2})
            model.graph.insert_before(node, join)
            node.replace_input_with(place, join.outputs[0])
    only_causal(model)


def stale_cache(model: ir.Model) -> None:
    """Attend to the cache as it was before the step."""
    pasts = {}
    for node in list(model.graph):
        if node.op_type in ("TensorScatter", "ScatterElements"):
            pasts[node.outputs[0]] = node.inputs[0]
        else:
            for place, value in enumerate(node.inputs):
                if value in pasts:
                    node.replace_input_with(place, pasts[value])


def written_at_the_start(model: ir.Model) -> None:
    """Forget where a row's new tokens go."""
    zero = ir.tensor(np.zeros(1, np.int64), name="nowhere")
    value = ir.Value(name="nowhere", const_value=zero, type=ir.TensorType(ir.DataType.INT64))
    model.graph.register_initializer(value)
    indices = next(each for each in model.graph.inputs if each.name == "write_indices")
    node = ir.node("Mul", [indices, value])
    model.graph.insert_before(model.graph[0], node)
    for user, place in indices.uses():
        if user is not node:
            user.replace_input_with(place, node.outputs[0])


def swapped_columns(model: ir.Model, order: tuple[int, int, int, int]) -> None:
    """Mix up what the plugin is told of a row: slot, first token, tokens, tokens held."""
    table = next(node for node in model.graph if node.outputs[0].name == "cache.rows.table")
    old = list(table.inputs)
    for place, source in enumerate(order):
        table.replace_input_with(place, old[source])


def longer_angles(model: ir.Model) -> None:
    """Make queries and keys longer where they are not turned."""
    table = model.graph.initializers["rotary.cos"]
    assert table.const_value is not None
    table.const_value = ir.tensor(table.const_value.numpy() * np.float32(1.1), name=table.name)


# A fault, and the scenarios in which it does not show: why there are so many of them.
FAULTS: dict[str, tuple[Callable[[ir.Model], None], set[str], tuple[str, ...]]] = {
    "a mask that shows the next position": (
        lambda model: change_mask(model, -1),
        set(),
        SPELT_OUT,
    ),
    "a mask that hides a token from itself": (
        lambda model: change_mask(model, 1),
        set(),
        SPELT_OUT,
    ),
    "is_causal": (only_causal, {"whole"}, ("trt-native",)),
    "a past that grows": (joined_past, set(), ("trt-native",)),
    "a stale cache": (stale_cache, set(), SPELT_OUT),
    "a first row without tokens": (
        lambda model: swapped_columns(model, (0, 1, 1, 3)),
        set(),
        ("trt-plugin",),
    ),
    "longer angles": (longer_angles, set(), ("trt-plugin",)),
    "a write index that is ignored": (written_at_the_start, {"whole"}, TARGET_NAMES),
}


@pytest.mark.parametrize(
    ("fault", "target"), [(name, target) for name, row in FAULTS.items() for target in row[2]]
)
def test_a_planted_fault_is_found(case: Case, tmp_path: Path, fault: str, target: str) -> None:
    plant, hidden, _ = FAULTS[fault]
    path, manifest = case.graph(target, precision_of("fp32"))
    model = ir.load(path)
    plant(model)
    ir.save(model, tmp_path / "model.onnx", external_data="model.onnx.data")
    session = TargetSession(tmp_path / "model.onnx", manifest.kv, manifest.model.vocab_size)
    errors = {name: error_of(name, session, case.reference) for name in SCENARIOS}
    found = {name for name, error in errors.items() if error > FLOAT_BARS["fp16"]}
    assert found == set(SCENARIOS) - hidden, errors
    assert all(errors[name] <= FLOAT_BARS["fp32"] for name in hidden)
