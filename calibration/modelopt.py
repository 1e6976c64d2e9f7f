"""The adapter of nvidia-modelopt: one linear and its inputs to the linear's scales.

modelopt takes seconds to import, so it is imported when a linear is calibrated.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from edgellama.calibration.recipe import Recipe
from edgellama.calibration.scales import LinearScales

# Recipe precision -> modelopt's preset, whose alpha, axes and ranges are used as they are.
_PRESETS = {"int4_awq": "INT4_AWQ_CFG", "int8_sq": "INT8_SMOOTHQUANT_CFG", "fp8": "FP8_DEFAULT_CFG"}
# modelopt compares clip candidates on about this many tokens of a batch (`max_tokens_per_batch`).
_CLIP_TOKENS = 64
# Products float32 that the clip search holds at once: rows * tokens * inputs.
_CLIP_PRODUCTS = 1 << 22


def quantization_config(recipe: Recipe) -> dict[str, Any]:
    """Return modelopt's `quantize` configuration of the recipe's weights."""
    import modelopt.torch.quantization as mtq

    assert recipe.weights is not None, "a recipe for the cache alone has no linears to quantise"
    config: dict[str, Any] = copy.deepcopy(getattr(mtq, _PRESETS[recipe.weights]))
    if recipe.weights == "int4_awq":
        config["algorithm"] = {"method": recipe.awq}
        for entry in config["quant_cfg"]:
            blocks = (entry.get("cfg") or {}).get("block_sizes")
            if blocks is not None:
                blocks[-1] = recipe.block_size
    return config


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep modelopt's reports off standard output, which belongs to `--json`."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # Its only warnings in this use: no accelerator extension, and a fused name it cannot know.
        warnings.simplefilter("ignore")
        yield


class _Rows(nn.Module):
    """Blocks of a linear's rows, each as a linear of its own that reads the same input."""

    def __init__(self, weight: torch.Tensor, rows: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_linear(part) for part in torch.split(weight, rows))

    def forward(self, inputs: torch.Tensor) -> None:
        """Show the input [1, tokens, inputs] to every block."""
        for block in self.blocks:
            block(inputs)


def _linear(weight: torch.Tensor) -> nn.Linear:
    rows, columns = weight.shape
    with torch.device("meta"):
        linear = nn.Linear(columns, rows, bias=False)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def _quantize(module: nn.Module, batches: Sequence[torch.Tensor], config: dict[str, Any]) -> None:
    import modelopt.torch.quantization as mtq

    def forward_loop(model: nn.Module) -> None:
        for batch in batches:
            model(batch[None])

    with torch.no_grad(), _quiet():
        mtq.quantize(module, config, forward_loop)


def _clipped(
    weight: torch.Tensor, batches: Sequence[torch.Tensor], config: dict[str, Any], block: int
) -> torch.Tensor:
    """Search clipped amax float32 [N * blocks]; the same as modelopt's, in a fraction of the time.

    Rows are independent, so blocks of them are searched as linears of their own: of a whole weight,
    modelopt quantises all again for each block of rows and ratio. It sees condensed inputs.
    """
    thinned = [batch[:: max(1, len(batch) // _CLIP_TOKENS)] for batch in batches]
    shown = condensed(thinned, block) if sum(map(len, thinned)) > block else torch.cat(thinned)
    algorithm = {"method": "awq_clip", "max_tokens_per_batch": len(shown)}
    rows = _Rows(weight, max(1, _CLIP_PRODUCTS // shown.numel()))
    _quantize(rows, [shown], {**config, "algorithm": algorithm})
    return torch.cat([_weight_amax(part).flatten() for part in rows.blocks])


def condensed(batches: Sequence[torch.Tensor], block: int) -> torch.Tensor:
    """Return `block` rows [block, K] on which every clip candidate does as on all the batches.

    A candidate with the error e in a block of a row loses the mean over tokens of (x . e)^2 =
    e' (sum of x x') e: only that matrix of the inputs matters, and its square root has `block`
    rows. Batches count equally, as in modelopt.
    """
    columns = batches[0].shape[1]
    products = torch.zeros(columns // block, block, block, dtype=torch.float64)
    for batch in batches:
        parts = batch.double().reshape(len(batch), -1, block).transpose(0, 1)
        products += parts.transpose(1, 2) @ parts / len(batch)
    sizes, directions = torch.linalg.eigh(products)
    roots = sizes.clamp(min=0).sqrt().unsqueeze(2) * directions.transpose(1, 2)
    rows: torch.Tensor = roots.transpose(0, 1).reshape(block, columns)
    return rows.float()


def _weight_amax(linear: nn.Module) -> torch.Tensor:
    amax = _quantizer(linear, "weight").amax
    assert isinstance(amax, torch.Tensor), "modelopt left a weight without amax"
    return amax.float()


def _quantizer(linear: nn.Module, of: str) -> Any:
    """Return modelopt's quantizer of the `weight` or the `input` of a linear it has quantised."""
    return getattr(linear, f"{of}_quantizer")


def calibrate_linear(
    weight: torch.Tensor, batches: Sequence[torch.Tensor], recipe: Recipe
) -> LinearScales:
    """Return the scales of a weight float32 [N, K] that reads the batches float32 [tokens, K].

    A batch is what modelopt sees as one call: its AWQ weighs batches, not tokens, equally. modelopt
    smooths the weight in place: give it one that nothing else uses.
    """
    config = quantization_config(recipe)
    pre_scale: torch.Tensor | None = None
    input_amax: float | None = None
    if recipe.awq == "awq_clip":
        amax = _clipped(weight, batches, config, recipe.block_size or 0)
    else:
        searched = {**config, "algorithm": {"method": "awq_lite"}} if recipe.awq else config
        model = nn.Sequential(_linear(weight))
        _quantize(model, batches, searched)
        linear = model[0]
        pre_scale = _quantizer(linear, "input").pre_quant_scale
        if recipe.awq == "awq_full":
            assert pre_scale is not None, "awq_lite left no pre-scale"
            # The weight has been smoothed in place, so the clip search goes on from there.
            scaled = [batch * pre_scale for batch in batches]
            amax = _clipped(weight, scaled, config, recipe.block_size or 0)
        else:
            amax = _weight_amax(linear)
        if recipe.weights != "int4_awq":
            input_amax = float(_quantizer(linear, "input").amax)
    return LinearScales(
        amax=_shaped(amax, weight.shape[0], recipe.weights),
        pre_scale=None if pre_scale is None else _floats(pre_scale.view(-1)),
        input_amax=input_amax,
    )


def _floats(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(tensor.detach().float().numpy(), dtype=np.float32)


def _shaped(
    amax: torch.Tensor, rows: int, precision: str | None
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return amax as `LinearScales` has it: [N, blocks], [N] or []."""
    shapes = {"int4_awq": (rows, -1), "int8_sq": (rows,), "fp8": ()}
    return _floats(amax.reshape(shapes[precision or ""]))
