"""An exported folder as a model to evaluate: the same numbers as its graph, whole or in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnxruntime as ort

from edgellama.export.checkpoint import open_checkpoint
from edgellama.export.to_onnx import export_portable, portable_model, save_model
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.portable_model import PortableModel
from edgellama.optimize.portable_session import PortableSession
from edgellama.optimize.quantized_graph import quantize_portable
from edgellama.profiles.profile import Precision

IDS = [256, *range(60, 90)]


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


@pytest.fixture(scope="module", params=["float32", "float16"])
def folder(
    request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("portable") / "model"
    export_portable(checkpoint, out, dtype=str(request.param))
    return out


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[PortableModel]:
    loaded = PortableModel.load(folder, threads=1)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def whole(folder: Path, checkpoint: Path) -> npt.NDArray[np.float32]:
    session = PortableSession(folder / "model.onnx", open_checkpoint(checkpoint).model)
    return session.logits(IDS)


def bound(model: PortableModel) -> float:
    """Order of sums in float32; in half precision the rounding of every intermediate."""
    return 1e-4 if model.precision.startswith("fp32") else 5e-2


def test_a_text_in_chunks_is_the_text(model: PortableModel, whole: npt.NDArray[np.float32]) -> None:
    for _ in range(2):  # the second text starts afresh
        rows = [model.run_tokens(0, IDS[start : start + 7], start) for start in range(0, 31, 7)]
        assert rows[0].dtype == np.float32
        np.testing.assert_allclose(np.concatenate(rows), whole, atol=bound(model))


def test_a_gap_in_the_text_is_refused(model: PortableModel) -> None:
    model.run_tokens(0, IDS[:4], 0)
    with pytest.raises(ValueError, match="only slot 0"):
        model.run_tokens(0, IDS[:4], 9)


def test_prompts_of_several_lengths_are_answered_as_alone(model: PortableModel) -> None:
    prompts = [IDS[:5], IDS[3:5], IDS[4:9], IDS[:2], IDS[10:15]]
    told: list[tuple[int, int]] = []
    together = model.generate(prompts, 6, (), lambda *report: told.append(report))
    assert together == [model.generate([prompt], 6, ())[0] for prompt in prompts]
    assert all(len(answer) == 6 for answer in together) and told[-1] == (5, 5)
    history = list(prompts[0])
    for token in together[0]:
        rows = model.run_tokens(0, history, 0)
        # In half precision two tokens may be equally likely.
        assert rows[-1].max() - rows[-1][token] <= bound(model)
        history.append(token)


def test_an_answer_ends_at_a_stop_id_and_at_the_capacity(model: PortableModel) -> None:
    (answer,) = model.generate([IDS[:5]], 6, ())
    (stopped,) = model.generate([IDS[:5]], 6, {answer[2]})
    assert stopped == answer[: answer.index(answer[2]) + 1]
    assert model.capacity == 128
    assert len(model.generate([[5] * 126], 6, ())[0]) == 2
    with pytest.raises(BuildError, match="1 to 127 tokens"):
        model.generate([[5] * 128], 6, ())


def test_threads_that_no_machine_has_are_refused(folder: Path) -> None:
    with pytest.raises(BuildError, match="threads is 0"):
        PortableModel.load(folder, threads=0)


def test_precision_and_size_are_told(folder: Path, model: PortableModel) -> None:
    assert model.precision in ("fp32 / fp32 / fp32 (ONNX)", "fp16 / fp16 / fp16 (ONNX)")
    assert model.size_bytes == sum(f.stat().st_size for f in folder.glob("model.onnx*"))
    assert model.codec.generation.bos_id == 256


@pytest.mark.parametrize("precision", ["int4_rtn", "int8"])
def test_quantised_weights_are_computed_in_float(
    checkpoint: Path, tmp_path: Path, precision: str
) -> None:
    """onnxruntime's own choice rounds the activations to int8: the graph does not say so."""
    opened = open_checkpoint(checkpoint)
    graph = portable_model(opened, "float32")
    quantize_portable(graph, opened.model, Precision(precision, "int8", "fp32", 32))
    path = tmp_path / "model.onnx"
    save_model(graph, path, None, "")
    plain = _logits(path, optimized=False)
    default = _logits(path, optimized=True)
    ours = PortableSession(path, opened.model, prepack=True).logits(IDS)
    np.testing.assert_allclose(ours, plain, atol=1e-4)
    assert np.abs(default - plain).max() > 1e-2  # or this test tests nothing


def _logits(path: Path, *, optimized: bool) -> npt.NDArray[np.float32]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {
        node.name: np.zeros((1, node.shape[1], 0, node.shape[3]), np.float32)
        for node in session.get_inputs()
        if node.name.startswith("past")
    }
    feed["input_ids"] = np.array([IDS])
    feed["position_ids"] = np.arange(len(IDS))[None]
    logits: npt.NDArray[np.float32] = session.run(["logits"], feed)[0][0]
    return logits
