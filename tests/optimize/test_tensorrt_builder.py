"""Plans by TensorRT for RTX, which needs no GPU: the real parser and the real compiler."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgellama.optimize.error import BuildError
from edgellama.optimize.tensorrt.knobs import KNOBS, NOT_OF_THE_BUILDER, apply_knobs
from edgellama.optimize.tensorrt.library import load_library
from edgellama.optimize.tensorrt.log import logger_of
from edgellama.optimize.tensorrt.plan_file import PlanStream
from edgellama.optimize.tensorrt.preflight import local_gpu, require_backend, require_same_gpu
from edgellama.optimize.tensorrt.report import report_from_dict
from edgellama.optimize.tensorrt_builder import build_plan
from edgellama.profiles.profile import Build, Limits, Profile, load_gpu, load_profile
from edgellama.profiles.tensorrt import TensorRt
from edgellama.runtime.device import DeviceProperties
from edgellama.runtime.manifest import TensorInfo

pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.filterwarnings("error::DeprecationWarning")

VOCAB, HIDDEN, HEADS, KV_HEADS, HEAD, CAPACITY = 64, 128, 4, 2, 32, 64
CACHE = ("batch", KV_HEADS, CAPACITY, HEAD)
INPUTS = (
    TensorInfo("input_ids", "int64", ("batch", "sequence")),
    TensorInfo("position_ids", "int64", ("batch", "sequence")),
    TensorInfo("write_indices", "int64", ("batch",)),
    TensorInfo("logits_indices", "int64", ("rows",)),
    TensorInfo("past_key_values.0.key", "float16", CACHE),
    TensorInfo("past_key_values.0.value", "float16", CACHE),
)
_TYPES = {"int64": TensorProto.INT64, "float16": TensorProto.FLOAT16}


def one_layer() -> onnx.ModelProto:
    """One attention layer behind an INT4 linear, in the operators of target trt-native."""
    random = np.random.default_rng(3)
    width = (HEADS + 2 * KV_HEADS) * HEAD
    constants: dict[str, np.ndarray] = {
        "embedding": random.standard_normal((VOCAB, HIDDEN)).astype(np.float16),
        "scale": random.random((1, width)).astype(np.float16),
        "head": random.standard_normal((HEADS * HEAD, VOCAB)).astype(np.float16),
        "sizes": np.array([HEADS * HEAD, KV_HEADS * HEAD, KV_HEADS * HEAD]),
        "q_shape": np.array([0, 0, HEADS, HEAD]),
        "kv_shape": np.array([0, 0, KV_HEADS, HEAD]),
        "flat": np.array([-1, HEADS * HEAD]),
        "positions": np.arange(CAPACITY).reshape(1, 1, 1, CAPACITY),
        "axes": np.array([1, 3]),
    }
    packed = random.integers(-8, 8, HIDDEN * width).tolist()
    node = helper.make_node
    nodes = [
        node("Gather", ["embedding", "input_ids"], ["x"]),
        node("DequantizeLinear", ["weight", "scale"], ["w"], axis=0, block_size=HIDDEN),
        node("MatMul", ["x", "w"], ["qkv"]),
        node("Split", ["qkv", "sizes"], ["q_flat", "k_flat", "v_flat"], axis=-1),
        *(node("Reshape", [f"{n}_flat", s], [f"{n}_BSNH"]) for n, s in _SHAPED),
        *(node("Transpose", [f"{n}_BSNH"], [n], perm=[0, 2, 1, 3]) for n, _ in _SHAPED),
        *(
            node(
                "TensorScatter",
                [f"past_key_values.0.{full}", n, "write_indices"],
                [f"present.0.{full}"],
                axis=-2,
            )
            for n, full in (("k", "key"), ("v", "value"))
        ),
        node("Unsqueeze", ["position_ids", "axes"], ["position"]),
        node("LessOrEqual", ["positions", "position"], ["mask"]),
        node(
            "Attention",
            ["q", "present.0.key", "present.0.value", "mask"],
            ["attended"],
            name="layers.0.attention",
            scale=HEAD**-0.5,
        ),
        node("Transpose", ["attended"], ["attended_BSNH"], perm=[0, 2, 1, 3]),
        node("Reshape", ["attended_BSNH", "flat"], ["rows_flat"]),
        node("Gather", ["rows_flat", "logits_indices"], ["wanted"], axis=0),
        node("MatMul", ["wanted", "head"], ["narrow"]),
        node("Cast", ["narrow"], ["logits"], to=TensorProto.FLOAT),
    ]
    inputs = [helper.make_tensor_value_info(i.name, _TYPES[i.dtype], i.shape) for i in INPUTS]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", VOCAB]),
        *(
            helper.make_tensor_value_info(f"present.0.{full}", TensorProto.FLOAT16, CACHE)
            for full in ("key", "value")
        ),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    initializers.append(helper.make_tensor("weight", TensorProto.INT4, (HIDDEN, width), packed))
    graph = helper.make_graph(nodes, "layer", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


_SHAPED = (("q", "q_shape"), ("k", "kv_shape"), ("v", "kv_shape"))


def rtx_profile(gpu: str = "l4", **knobs: object) -> Profile:
    """The L4 of the shipped profile with TensorRT for RTX, and limits that fit the graph."""
    shipped = load_profile("l4-1b")
    return dataclasses.replace(
        shipped,
        build=Build("trt-native", "tensorrt-rtx"),
        device=dataclasses.replace(shipped.device, gpu=load_gpu(gpu), memory_gib=4.0),
        limits=Limits(slots=4, capacity=CAPACITY, prefill_chunk=16, max_queue=8),
        tensorrt=TensorRt(versions=">=10.16,<12", **knobs),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(one_layer(), path, save_as_external_data=True, location="model.onnx.data")
    return path


def saved(tmp_path: Path, model: onnx.ModelProto) -> Path:
    path = tmp_path / "altered.onnx"
    onnx.save(model, path)
    return path


def test_a_plan_has_two_profiles_and_native_layers(graph: Path, tmp_path: Path) -> None:
    plan, told = tmp_path / "model.plan", list[tuple[str, int, int]]()
    report = build_plan(
        graph, plan, rtx_profile(), INPUTS, progress=lambda *state: told.append(state)
    )
    assert plan.stat().st_size == report.plan_bytes > (HIDDEN * 256) // 2
    assert plan.read_bytes()[:4] == b"vtrt"
    assert (report.backend, report.compute_capability) == ("tensorrt-rtx", "8.9")
    assert report.layers["KV_CACHE_UPDATE"] == 2
    assert report.layers["ATTENTION_INPUT"] == report.layers["DEQUANTIZE"] == 1
    assert report.optimization_profiles == {
        "prefill": {"batch": (1, 1, 1), "sequence": (1, 16, 16), "rows": (1, 1, 4)},
        "decode": {"batch": (1, 4, 4), "sequence": (1, 1, 1), "rows": (1, 4, 4)},
    }
    assert report.knobs == {"profiling_verbosity": "detailed"}
    assert report.timing_cache.file is None
    assert report.timing_cache.reason == "tensorrt-rtx times kernels where the engine runs"
    assert any("Int64 binding" in text for text in report.warnings)
    done = [state[1] for state in told]
    assert done == sorted(done) and done[0] == 0 and done[-1] == 1000 and len(set(done)) > 10
    assert told[-1][0] == "done" and {state[2] for state in told} == {1000}
    assert sorted(path.name for path in tmp_path.iterdir()) == (
        ["model.plan"] if report.inspector.reason else ["model.layers.json", "model.plan"]
    )


def test_a_report_survives_json(graph: Path, tmp_path: Path) -> None:
    report = build_plan(graph, tmp_path / "model.plan", rtx_profile(), INPUTS)
    assert report_from_dict(json.loads(json.dumps(report.as_dict()))) == report


def test_nothing_is_printed(graph: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build_plan(graph, tmp_path / "model.plan", rtx_profile(), INPUTS)
    assert capfd.readouterr() == ("", "")


def test_an_exception_of_the_progress_stops_the_build(graph: Path, tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"the one before")

    def full(stage: str, done: int, steps: int) -> None:
        if done > 100:
            raise OSError(f"no terminal at {stage}")

    with pytest.raises(OSError, match="no terminal at"):
        build_plan(graph, plan, rtx_profile(), INPUTS, progress=full)
    assert [path.name for path in tmp_path.iterdir()] == ["model.plan"]
    assert plan.read_bytes() == b"the one before"
    assert build_plan(graph, plan, rtx_profile(), INPUTS).plan_bytes > 1000  # nothing is stuck


INTERRUPTED = """
import os, pickle, signal, sys
from pathlib import Path
from edgellama.optimize.tensorrt_builder import build_plan

graph, plan, profile, inputs = pickle.load(open(sys.argv[1], "rb"))
asked = []
def interrupt(stage, done, steps):
    if done > 100 and not asked:
        asked.append(done)
        os.kill(os.getpid(), signal.SIGINT)
before = signal.getsignal(signal.SIGINT)
try:
    build_plan(graph, plan, profile, inputs, progress=interrupt)
except KeyboardInterrupt:
    assert asked and signal.getsignal(signal.SIGINT) is before
    print("interrupted")
"""


def test_ctrl_c_stops_the_build_and_leaves_nothing(graph: Path, tmp_path: Path) -> None:
    given, folder = tmp_path / "given", tmp_path / "out"
    folder.mkdir()
    given.write_bytes(pickle.dumps((graph, folder / "model.plan", rtx_profile(), INPUTS)))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(given)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
    assert list(folder.iterdir()) == []


def test_an_unsupported_attribute_is_named_with_its_node(tmp_path: Path) -> None:
    model = one_layer()
    (attention,) = (node for node in model.graph.node if node.op_type == "Attention")
    attention.attribute.append(helper.make_attribute("softcap", 2.0))
    model.graph.node[0].op_type, model.graph.node[0].domain = "GatherFast", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(BuildError) as caught:
        build_plan(saved(tmp_path, model), tmp_path / "model.plan", rtx_profile(), INPUTS)
    text = str(caught.value)
    assert "tensorrt_rtx 1." in text and "softcap" in text
    assert "Attention 'layers.0.attention' (node " in text
    assert "GatherFast (node 0)" in text and "this graph is another target's" in text
    assert not (tmp_path / "model.plan").exists()


def test_a_graph_with_other_inputs_is_refused(graph: Path, tmp_path: Path) -> None:
    wanted = (*INPUTS[1:], TensorInfo("past_key_values.1.key", "float16", CACHE))
    with pytest.raises(BuildError, match=r"missing \['past_key_values.1.key'\], not known \['inp"):
        build_plan(graph, tmp_path / "model.plan", rtx_profile(), wanted)


def test_a_missing_or_damaged_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="does not exist; export the model again"):
        build_plan(tmp_path / "no.onnx", tmp_path / "model.plan", rtx_profile(), INPUTS)
    (tmp_path / "text.onnx").write_text("no graph at all")
    with pytest.raises(BuildError, match="cannot read the graph"):
        build_plan(tmp_path / "text.onnx", tmp_path / "model.plan", rtx_profile(), INPUTS)


def test_int4_on_a_gpu_that_has_none_says_so(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot build the plan.*int4 needs compute capability 8"):
        build_plan(graph, tmp_path / "model.plan", rtx_profile("t4"), INPUTS)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_as_such(graph: Path) -> None:
    """A short write is not noticed by TensorRT: it says that the plan is there."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with full.open("wb", buffering=0) as device:
        stream = PlanStream(device)  # type: ignore[arg-type]  # a raw file writes likewise
        assert stream.write(b"plan") == 0
        assert isinstance(stream.failure, OSError)
        assert stream.write(b"more") == 0


def test_every_field_of_the_profile_is_a_knob() -> None:
    names = {field.name for field in dataclasses.fields(TensorRt)}
    assert names == {knob.field for knob in KNOBS} | set(NOT_OF_THE_BUILDER)


SETTINGS: Sequence[tuple[str, dict[str, object]]] = (
    ("optimization_level", {"optimization_level": 5}),
    ("max_num_tactics", {"max_num_tactics": 4}),
    ("avg_timing_iterations", {"avg_timing_iterations": 8}),
    ("workspace_gib", {"workspace_gib": 2.5}),
    ("tactic_dram_gib", {"tactic_dram_gib": 1.0}),
    ("version_compatible", {"version_compatible": True}),
    ("exclude_lean_runtime", {"version_compatible": True, "exclude_lean_runtime": True}),
    ("refit", {"refit": "refit"}),
    ("refit", {"refit": "refit_identical"}),
    ("refit", {"refit": "refit_individual"}),
    ("strip_plan", {"refit": "refit_identical", "strip_plan": True}),
    ("weight_streaming", {"weight_streaming": True}),
    ("tiling", {"tiling": "fast"}),
    ("tiling", {"tiling": "full"}),
    ("l2_limit_mib", {"tiling": "moderate", "l2_limit_mib": 1.5}),
    ("max_aux_streams", {"max_aux_streams": 0}),
    ("sparse_weights", {"sparse_weights": True}),
    ("profiling_verbosity", {"profiling_verbosity": "none"}),
    ("timing_cache", {"timing_cache": False}),
)


def test_every_knob_is_tried() -> None:
    tried = {name for name, _ in SETTINGS} | {"hardware_compatibility"}
    assert tried == {knob.field for knob in KNOBS}


@pytest.mark.parametrize(("name", "values"), SETTINGS)
def test_a_knob_reaches_the_configuration(name: str, values: dict[str, object]) -> None:
    profile = rtx_profile(**{"profiling_verbosity": "layer_names_only", **values})
    library = load_library(profile)
    config = library.Builder(logger_of(library)[0]).create_builder_config()
    assert profile.tensorrt is not None
    applied = apply_knobs(library, config, profile.tensorrt)
    assert applied == values
    assert name in applied


def test_a_knob_that_the_library_does_not_take_is_refused(graph: Path, tmp_path: Path) -> None:
    profile = rtx_profile(hardware_compatibility="ampere_plus")
    message = r"tensorrt.hardware_compatibility is 'ampere_plus', which tensorrt_rtx 1\S+ does not"
    with pytest.raises(BuildError, match=message):
        build_plan(graph, tmp_path / "model.plan", profile, INPUTS)


def test_a_gpu_that_rtx_does_not_compile_for_is_refused() -> None:
    with pytest.raises(BuildError, match=r"H100.* compute capability 9\.0; .* SM89"):
        require_backend(rtx_profile("h100"))
    assert require_backend(rtx_profile()) is None


def with_tensorrt(profile: Profile, **knobs: object) -> Profile:
    """The profile with TensorRT itself."""
    assert profile.tensorrt is not None
    return dataclasses.replace(
        profile,
        build=Build("trt-native", "tensorrt"),
        tensorrt=dataclasses.replace(profile.tensorrt, **knobs),  # type: ignore[arg-type]
    )


def test_without_tensorrt_it_says_what_to_install() -> None:
    if _has_tensorrt():
        pytest.skip("TensorRT is installed")
    with pytest.raises(BuildError, match=r"install 'edgellama\[tensorrt\]'.* --bundle.*finish"):
        require_backend(with_tensorrt(rtx_profile()))


def _has_tensorrt() -> bool:
    return find_spec("tensorrt") is not None


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("10.3.0", r"tensorrt.versions is '>=10.16,<12', and tensorrt 10\.3\.0 is installed"),
        ("12.0.1", r"tensorrt 12\.0\.1 is installed; install a version within"),
        ("11.4.0.106", "which times kernels on the GPU that it builds for: .* no GPU"),
    ],
)
def test_another_version_is_refused(
    version: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of that name and version, without anything in it: no more is asked before."""
    if _has_tensorrt() or _has_gpu():
        pytest.skip("TensorRT or a GPU is here")
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text(f"__version__ = {version!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    try:
        with pytest.raises(BuildError, match=message):
            require_backend(with_tensorrt(rtx_profile()))
    finally:
        sys.modules.pop("tensorrt", None)


def _has_gpu() -> bool:
    try:
        local_gpu()
    except BuildError:
        return False
    return True


@pytest.mark.parametrize(
    ("here", "level", "fits"),
    [
        ("8.9", "none", True),
        ("8.6", "none", False),
        ("8.6", "same_compute_capability", False),
        ("8.6", "ampere_plus", True),
        ("12.0", "ampere_plus", True),
        ("7.5", "ampere_plus", False),
    ],
)
def test_an_engine_is_built_on_its_own_gpu(here: str, level: str, fits: bool) -> None:
    profile = with_tensorrt(rtx_profile(), hardware_compatibility=level)
    found = DeviceProperties("another GPU", here, "13.2")
    if fits:
        require_same_gpu(profile, found)
        return
    with pytest.raises(BuildError, match=rf"NVIDIA L4.*8\.9.* another GPU with {here}.*'{level}'"):
        require_same_gpu(profile, found)


def test_the_builder_needs_no_compiler_package() -> None:
    """`edgellama finish` builds on a device that has neither torch nor onnx."""
    blocked = ("torch", "onnx", "onnx_ir", "onnxscript", "transformers", "ml_dtypes", "onnxruntime")
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"  # None makes `import` raise
        "import edgellama.optimize.tensorrt_builder\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
