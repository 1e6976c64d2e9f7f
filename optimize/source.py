"""Where a build's float32 graph comes from, and what the engine is compared with."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgellama.export.checkpoint import open_checkpoint
from edgellama.export.reference import Variant, as_stored, reference_logits
from edgellama.export.resolve import source_name
from edgellama.export.stage import require_disk_space
from edgellama.export.to_onnx import (
    CONFIG_KEY,
    FINGERPRINT_KEY,
    GRAPH_NAME,
    SOURCE_KEY,
    portable_model,
)
from edgellama.optimize.passes.match import dims
from edgellama.optimize.passes.quantize_tables import TABLE
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.portable_session import PortableSession
from edgellama.profiles.model import ModelConfig, RopeScaling

Logits = npt.NDArray[np.float32]
OnLayer = Callable[[int, int], None]


class Source(Protocol):
    """A model to compile: checked when made, traced or read only when `graph` is called."""

    folder: Path
    name: str
    model: ModelConfig

    def fingerprint(self) -> str:
        """Return a digest of the weights and configuration."""

    def graph(self) -> ir.Model:
        """Return the portable float32 graph; its weights are read when they are written."""

    def reference(
        self, sequences: Sequence[Sequence[int]], on_layer: OnLayer, variants: Sequence[Variant]
    ) -> list[list[Logits]]:
        """Return logits [length, vocab] of the float32 model, per variant and sequence."""


class CheckpointSource:
    """A Hugging Face checkpoint folder; the reference is transformers itself."""

    def __init__(self, folder: Path) -> None:
        self._checkpoint = open_checkpoint(folder)
        self.folder = folder
        self.name = source_name(folder)
        self.model = self._checkpoint.model

    def fingerprint(self) -> str:
        """Return the checkpoint's digest."""
        return self._checkpoint.fingerprint()

    def graph(self) -> ir.Model:
        """Trace the model."""
        return portable_model(self._checkpoint, "float32")

    def reference(
        self, sequences: Sequence[Sequence[int]], on_layer: OnLayer, variants: Sequence[Variant]
    ) -> list[list[Logits]]:
        """Run transformers' layers in float32, one in memory at a time."""
        return reference_logits(self._checkpoint, sequences, on_layer, variants)


class PortableSource:
    """A folder that `edgellama export` wrote; the reference is its graph on ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / GRAPH_NAME
        if not self._path.is_file():
            raise BuildError(
                f"{folder}: no {GRAPH_NAME}; make one with `edgellama export MODEL --out DIR`"
            )
        model = self._load()
        metadata = model.metadata_props
        for key in (CONFIG_KEY, SOURCE_KEY, FINGERPRINT_KEY):
            if key not in metadata:
                raise BuildError(
                    f"{self._path}: metadata {key} is missing; it was not written by "
                    "`edgellama export`"
                )
        self._check_data(model)
        raw = json.loads(metadata[CONFIG_KEY])
        if raw["rope_scaling"] is not None:
            raw["rope_scaling"] = RopeScaling(**raw["rope_scaling"])
        self.model = ModelConfig(**raw)
        self.name = metadata[SOURCE_KEY]
        self._origin = metadata[FINGERPRINT_KEY]

    def fingerprint(self) -> str:
        """Return a digest of the graph, its data's size and time, and the checkpoint's digest."""
        digest = hashlib.sha256(self._origin.encode() + self._path.read_bytes())
        for path in sorted(self.folder.iterdir()):
            status = path.stat()
            digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
        return digest.hexdigest()

    def graph(self) -> ir.Model:
        """Read the graph; the weights stay in the memory-mapped file until they are written."""
        model = self._load()
        past = next(v for v in model.graph.inputs if (v.name or "").startswith("past_key_values."))
        if past.dtype != ir.DataType.FLOAT:
            raise BuildError(
                f"{self._path} was exported as {past.dtype}; target ort on a CPU computes in "
                "float32, export with --dtype float32"
            )
        return model

    def reference(
        self, sequences: Sequence[Sequence[int]], on_layer: OnLayer, variants: Sequence[Variant]
    ) -> list[list[Logits]]:
        """Run the portable graph itself; another variant as a temporary copy."""
        results = []
        for index, variant in enumerate(variants):
            with tempfile.TemporaryDirectory() as folder:
                path = self._path
                if variant is not as_stored:
                    path = Path(folder) / GRAPH_NAME
                    self._write_variant(path, variant)
                session = PortableSession(path, self.model)
                results.append([session.logits(sequence) for sequence in sequences])
            on_layer(index + 1, len(variants))
        return results

    def _load(self) -> ir.Model:
        try:
            return ir.load(self._path)
        except Exception as error:  # protobuf's class, which onnx_ir does not name
            raise BuildError(
                f"{self._path} is not an ONNX model ({error}); export again"
            ) from error

    def _check_data(self, model: ir.Model) -> None:
        """Check that no weight lies beyond the end of its file."""
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor):
                continue
            data = self.folder / tensor.location
            size = data.stat().st_size if data.is_file() else 0
            end = (tensor.offset or 0) + (tensor.length or 0)
            if size < end:
                raise BuildError(
                    f"{data} has {size} bytes, but {name} ends at its byte {end}; export again"
                )

    def _write_variant(self, path: Path, variant: Variant) -> None:
        """Write the graph with every matrix replaced by what `variant` makes of it."""
        needed = sum(file.stat().st_size for file in self.folder.glob(f"{GRAPH_NAME}*"))
        require_disk_space(path.parent, needed, "the rounded model, in TMPDIR for verify,")
        model = self.graph()
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is None or len(tensor.shape) != 2 or not name.endswith(".weight"):
                continue
            value.const_value = ir.LazyTensor(
                _varied(tensor, name, variant),
                dtype=tensor.dtype,
                shape=ir.Shape(dims(tensor.shape)),
                name=name,
            )
        ir.save(model, path, external_data=f"{path.name}.data")


def _varied(
    tensor: ir.TensorProtocol, name: str, variant: Variant
) -> Callable[[], ir.TensorProtocol]:
    def read() -> ir.TensorProtocol:
        weight = tensor.numpy()
        if name != TABLE:  # linears are stored [K, N]
            weight = np.ascontiguousarray(weight.T)
        varied = variant(name, weight)
        return ir.Tensor(varied if name == TABLE else np.ascontiguousarray(varied.T), name=name)

    return read
