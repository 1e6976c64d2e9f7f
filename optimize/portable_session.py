"""Run a portable graph as it is, to compare engines with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgellama.profiles.model import ModelConfig

_LOG_ERRORS = 3


class PortableSession:
    """The portable float32 graph on ONNX Runtime's CPU, one sequence at a time."""

    def __init__(self, path: Path, model: ModelConfig) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_ERRORS
        # Packing would copy every weight for the sake of a few short runs.
        options.add_session_config_entry("session.disable_prepacking", "1")
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._model = model

    def logits(
        self, tokens: Sequence[int], chunks: Sequence[int] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return logits [len(tokens), vocab]; `chunks` splits the run, carrying the past along."""
        model = self._model
        empty = np.zeros((1, model.num_kv_heads, 0, model.head_dim), np.float32)
        names = [
            f"{layer}.{kind}" for layer in range(model.num_layers) for kind in ("key", "value")
        ]
        past = {f"past_key_values.{name}": empty for name in names}
        rows, start = [], 0
        for count in chunks or [len(tokens)]:
            feed = {
                "input_ids": np.array([tokens[start : start + count]], np.int64),
                "position_ids": np.arange(start, start + count, dtype=np.int64)[None],
            }
            outputs = ["logits", *(f"present.{name}" for name in names)]
            logits, *present = self._session.run(outputs, {**feed, **past})
            past = {
                f"past_key_values.{name}": value for name, value in zip(names, present, strict=True)
            }
            rows.append(logits[0])
            start += count
        return np.concatenate(rows)
