"""Where a build's float32 graph comes from, and what the engine is compared with."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgellama.export.checkpoint import Checkpoint
from edgellama.export.file_names import GRAPH_NAME
from edgellama.export.reference import OnLogits, Variant, as_stored, reference_logits
from edgellama.export.stage import require_disk_space
from edgellama.export.to_onnx import (
    CONFIG_KEY,
    FINGERPRINT_KEY,
    GRAPH_ONLY_KEY,
    SOURCE_KEY,
    portable_model,
    save_model,
)
from edgellama.export.weights import IR_DTYPES
from edgellama.optimize.pipeline import BuildError
from edgellama.optimize.portable_session import PortableSession
from edgellama.optimize.quantization import (
    PRECISION_KEY,
    Given,
    Quantization,
    given_scales,
    quantization_of,
    require_nothing_given,
)
from edgellama.optimize.stored_weights import StoredWeights
from edgellama.profiles.model import ModelConfig, RopeScaling
from edgellama.profiles.profile import Profile
from edgellama.runtime.text import TextCodec

# What a float precision is called where a graph is exported.
DTYPE_OF = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
Logits = npt.NDArray[np.float32]
OnLayer = Callable[[int, int], None]
Progress = Callable[[str, int, int], None]


class Source(Protocol):
    """A model to compile: checked when made, traced or read only when `graph` is called."""

    folder: Path
    adapter: Path | None
    name: str
    model: ModelConfig

    def fingerprint(self) -> str:
        """Return a digest of the weights and configuration."""

    def quantization(
        self,
        codec: TextCodec | None,
        profile: Profile,
        given: Given,
        folder: Path,
        progress: Progress | None,
    ) -> Quantization:
        """Return what to quantise with; new scales are written to `folder`."""

    def graph(self, quantization: Quantization) -> ir.Model:
        """Return the portable graph at that precision; weights are read when they are written."""

    def reference(
        self,
        sequences: Sequence[Sequence[int]],
        on_layer: OnLayer,
        quantization: Quantization,
        streamed: Sequence[Sequence[int]] = (),
        on_logits: OnLogits | None = None,
    ) -> tuple[list[Logits], list[Logits]]:
        """Return logits [length, vocab] of the sequences: the float model's, the quantised one's.

        The `streamed` sequences take part in the same pass, as the float model only:
        `on_logits(index, logits)` gets theirs one after the other, and they are not kept.
        """


class CheckpointSource:
    """A Hugging Face checkpoint; the reference is transformers itself."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.folder = checkpoint.folder
        self.adapter = checkpoint.adapter
        self.name = checkpoint.name
        self.model = checkpoint.model

    def fingerprint(self) -> str:
        """Return the checkpoint's digest."""
        return self._checkpoint.fingerprint()

    def quantization(
        self,
        codec: TextCodec | None,
        profile: Profile,
        given: Given,
        folder: Path,
        progress: Progress | None,
    ) -> Quantization:
        """Return the checkpoint's own codes, the given scales, or new ones."""
        return quantization_of(self._checkpoint, codec, profile, given, folder, progress)

    def graph(self, quantization: Quantization) -> ir.Model:
        """Trace the model and quantise it."""
        graph = portable_model(self._checkpoint, DTYPE_OF[quantization.precision.compute])
        quantization.apply(graph, self.model)
        return graph

    def reference(
        self,
        sequences: Sequence[Sequence[int]],
        on_layer: OnLayer,
        quantization: Quantization,
        streamed: Sequence[Sequence[int]] = (),
        on_logits: OnLogits | None = None,
    ) -> tuple[list[Logits], list[Logits]]:
        """Run transformers' layers in float32, one in memory at a time."""
        rounded = StoredWeights(
            self.model, quantization.precision, quantization.scales, quantization.stored
        )
        variants: list[Variant] = [as_stored] if rounded.is_exact else [as_stored, rounded]
        logits = reference_logits(
            self._checkpoint, sequences, on_layer, variants, streamed, on_logits
        )
        return logits[0], logits[-1]


class PortableSource:
    """A folder that `edgellama export` wrote; the reference is its graph on ONNX Runtime."""

    adapter: Path | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / GRAPH_NAME
        if not self._path.is_file():
            raise BuildError(
                f"{folder}: no {GRAPH_NAME}; make one with `edgellama export MODEL --out DIR`"
            )
        model = self._load()
        metadata = model.metadata_props
        if GRAPH_ONLY_KEY in metadata:
            raise BuildError(
                f"{folder}: a graph without weights (edgellama.graph_only); export the model "
                "again, without --graph-only"
            )
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
        self._precision: dict[str, Any] | None = None
        if PRECISION_KEY in metadata:
            self._precision = json.loads(metadata[PRECISION_KEY])

    def fingerprint(self) -> str:
        """Return a digest of the graph, its data's size and time, and the checkpoint's digest."""
        digest = hashlib.sha256(self._origin.encode() + self._path.read_bytes())
        for path in sorted(self.folder.iterdir()):
            status = path.stat()
            digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
        return digest.hexdigest()

    def quantization(
        self,
        codec: TextCodec | None,
        profile: Profile,
        given: Given,
        folder: Path,
        progress: Progress | None,
    ) -> Quantization:
        """Return the given scales, or nothing for a model that is quantised already.

        Raises BuildError where the profile asks for another precision than the model has, or for
        scales, which are measured on the checkpoint.
        """
        precision = profile.precision
        if self._precision is not None:
            for key, value in asdict(precision).items():
                if self._precision.get(key, value) != value:
                    raise BuildError(
                        f"{self.folder} was exported with precision.{key} "
                        f"{self._precision[key]!r}, the profile has {value!r}; export again with "
                        "the profile's, or choose a profile with the model's"
                    )
            require_nothing_given(given, precision)
            return Quantization(precision)
        if not precision.is_calibrated:
            require_nothing_given(given, precision)
            return Quantization(precision)
        if given.scales is None:
            raise BuildError(
                f"profile {profile.name}: weights {precision.weights} with cache {precision.kv} "
                f"need calibrated scales, which are measured on the checkpoint: use `edgellama "
                "build`, `edgellama export --precision`, or give --scales"
            )
        scales, record = given_scales(given.scales, self.model, profile)
        return Quantization(precision, scales, record={"scales": record})

    def graph(self, quantization: Quantization) -> ir.Model:
        """Read the graph; the weights stay in the memory-mapped file until they are written."""
        if quantization.precision.compute == "bf16":
            raise BuildError(
                f"{self._path}: precision.compute is 'bf16', which ONNX Runtime cannot run on a "
                "CPU, so the engine could not be compared with the export; use `edgellama build` "
                "with the checkpoint"
            )
        model = self._load()
        past = next(v for v in model.graph.inputs if (v.name or "").startswith("past_key_values."))
        wanted = DTYPE_OF[quantization.precision.compute]
        if past.dtype != IR_DTYPES[wanted][1]:
            raise BuildError(
                f"{self._path} was exported as {past.dtype}; precision.compute is "
                f"{quantization.precision.compute!r}: export with --dtype {wanted}"
            )
        if self._precision is None:
            quantization.apply(model, self.model)
        return model

    def reference(
        self,
        sequences: Sequence[Sequence[int]],
        on_layer: OnLayer,
        quantization: Quantization,
        streamed: Sequence[Sequence[int]] = (),
        on_logits: OnLogits | None = None,
    ) -> tuple[list[Logits], list[Logits]]:
        """Run the portable graph itself, and a quantised copy where it is a float one."""
        rounds = self._precision is None and not quantization.precision.is_float32
        total = 2 if rounds else 1
        session = PortableSession(self._path, self.model)
        original = [session.logits(sequence) for sequence in sequences]
        if on_logits is not None:
            for index, sequence in enumerate(streamed):
                on_logits(index, session.logits(sequence))
        del session  # its weights go before those of the copy come
        on_layer(1, total)
        if not rounds:
            return original, original
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / GRAPH_NAME
            self._write_quantized(path, quantization)
            session = PortableSession(path, self.model)
            rounded = [session.logits(sequence) for sequence in sequences]
        on_layer(2, total)
        return original, rounded

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

    def _write_quantized(self, path: Path, quantization: Quantization) -> None:
        """Write the quantised portable model, as `edgellama export --precision` would."""
        needed = sum(file.stat().st_size for file in self.folder.glob(f"{GRAPH_NAME}*"))
        require_disk_space(path.parent, needed, "the rounded model, in TMPDIR for verify,")
        save_model(self.graph(quantization), path, None, "")
