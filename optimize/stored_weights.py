"""The float value of each weight as an engine of given precision stores it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellama.optimize.passes.pad_heads import head_places, padded_head_dim
from edgellama.optimize.passes.quantize_tables import TABLE
from edgellama.optimize.quantize import quantize_rows
from edgellama.optimize.targets.ort import HEAD, QUANTIZED_BITS
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Precision

Floats = npt.NDArray[np.float32]


class StoredWeights:
    """Rounds a weight as the passes do, by other code: `weights(name, rows)` -> rows.

    `rows` is float32 [N, K], a row for each output. With these weights the model in float32 is
    what the quantised engine must compute, up to its kernels' own rounding; against the original
    weights it tells what the precision loses.
    """

    def __init__(self, model: ModelConfig, precision: Precision) -> None:
        self._model = model
        self._precision = precision

    @property
    def is_exact(self) -> bool:
        """Whether every weight is stored as it is."""
        return {self._precision.weights, self._precision.embedding} == {"fp32"}

    def __call__(self, name: str, rows: Floats) -> Floats:
        """Return the rounded weight of the same shape."""
        precision = self._precision
        kind = precision.embedding if name in (HEAD, TABLE) else precision.weights
        if kind == "fp32":
            return rows
        if kind == "fp16":
            return rows.astype(np.float16).astype(np.float32)
        bits = QUANTIZED_BITS[kind]
        head_dim = self._model.head_dim
        if not name.endswith("o_proj.weight") or padded_head_dim(head_dim) == head_dim:
            return quantize_rows(rows, bits, precision.block_size).dequantize()
        # Padded heads move the inputs of the output projection into other blocks.
        places = head_places(self._model.num_heads, head_dim)
        wide = np.zeros((len(rows), self._model.num_heads * padded_head_dim(head_dim)), np.float32)
        wide[:, places] = rows
        return quantize_rows(wide, bits, precision.block_size).dequantize()[:, places]
