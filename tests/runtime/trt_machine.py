"""A machine with TensorRT and a GPU, all of it doubles: what the tests of the backend load on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from host_cuda import HostCuda
from onnx_answers import OnnxAnswers
from recorded_tensorrt import Record, RecordedTensorRt
from small_llama import (
    CAPACITY,
    CHUNK,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    SLOTS,
    VOCAB,
)

from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Build, Device, Limits, Precision, Profile, load_gpu
from edgellama.profiles.tensorrt import TensorRt
from edgellama.runtime.contract import graph_inputs, graph_outputs
from edgellama.runtime.manifest import KvLayout, Manifest
from edgellama.runtime.trt import TrtBackend

TYPINGS = Path(__file__).resolve().parents[2] / "typings"
VERSIONS = {"tensorrt": "11.4.0.106", "tensorrt-rtx": "1.7.1.116"}
# What a version lacks of the stub's; 10.3 is that of JetPack 6.
TENSORRT_10_3 = (
    "IRuntimeConfig",
    "ICudaEngine.create_runtime_config",
    "ICudaEngine.get_aliased_input_tensor",
    "ICudaEngine.get_engine_stat",
    "IStreamReaderV2",
    "IStreamWriter",
)
KV = KvLayout(LAYERS, KV_HEADS, HEAD_DIM, SLOTS, CAPACITY, "float32")
LIMITS = Limits(SLOTS, CAPACITY, CHUNK, 4)


def make_manifest(
    backend: str = "tensorrt", target: str = "trt-native", **settings: Any
) -> Manifest:
    """Return a manifest of the small model; keywords are those of the table [tensorrt]."""
    profile = Profile(
        name="test",
        description="",
        model="",
        device=Device("gpu", 21.0, gpu=load_gpu("l4")),
        build=Build(target, backend),
        precision=Precision("fp32", "fp32", "fp32"),
        limits=LIMITS,
        tensorrt=TensorRt(versions=">=1", **settings),
    )
    model = ModelConfig(
        VOCAB, HIDDEN, 1, LAYERS, HEADS, KV_HEADS, HEAD_DIM, CAPACITY, 1e-5, 1e4, None, False
    )
    return Manifest(
        profile=profile,
        model=model,
        source="test",
        fingerprint="",
        graph="model.plan",
        inputs=graph_inputs(target, KV),
        outputs=graph_outputs(KV, VOCAB),
        kv=KV,
        files={},
        versions={backend: VERSIONS[backend]},
        build={},
        verify={},
    )


class Machine:
    """One library and one GPU, and what both were asked, in one record."""

    def __init__(
        self,
        folder: Path,
        *,
        backend: str = "tensorrt",
        version: str | None = None,
        without: Sequence[str] = (),
        fails: Callable[[str], bool] = lambda name: False,
        **cuda: Any,
    ) -> None:
        self.folder = folder
        self.backend = backend
        self.record = Record()
        self.cuda = HostCuda(self.record, fails=fails, **cuda)
        self.answers = OnnxAnswers(self.cuda, LIMITS)
        stub = (TYPINGS / backend.replace("-", "_") / "__init__.pyi").read_text(encoding="utf-8")
        self.answers.double = RecordedTensorRt(
            stub,
            self.answers.table(),
            self.record,
            version or VERSIONS[backend],
            without=without,
        )
        self.install(self.answers.double.module)

    def install(self, module: ModuleType | None) -> None:
        """Let `import` find the double, or nothing."""
        sys.modules[self.backend.replace("-", "_")] = module  # type: ignore[assignment]

    def load(self, manifest: Manifest | None = None, **settings: Any) -> TrtBackend:
        """Open the plan; settings are those of the table [tensorrt]."""
        given = manifest or make_manifest(self.backend, **settings)
        return TrtBackend.load(self.folder, given, device=self.cuda)


def with_kv(manifest: Manifest, **changes: Any) -> Manifest:
    """Return a manifest with another KV layout."""
    return replace(manifest, kv=replace(manifest.kv, **changes))
