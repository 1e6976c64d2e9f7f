"""Scales by absolute maximum, with random pre-scales: quicker than a calibration, and as valid."""

from __future__ import annotations

import numpy as np
from numpy_llama import NumpyLlama

from edgellama.calibration.scales import LinearScales, Scales
from edgellama.optimize.recipes import GROUPS


def make_scales(
    llama: NumpyLlama,
    ids: list[int],
    block: int,
    kind: str | None,
    kv: str | None = None,
    *,
    per_tensor: bool = False,
    equal: bool = False,
) -> Scales:
    """Return scales for weights of `kind` and a cache of `kv`, measured on `ids`.

    `equal` gives query heads of a group the same pre-scales.
    """
    rng = np.random.default_rng(3)
    seen = llama.inputs_of_linears(ids)
    linears = {}
    model = llama.model
    for layer in range(model.num_layers if kind is not None else 0):
        for group in GROUPS:
            names = [f"model.layers.{layer}.{part}.weight" for part in group]
            inputs = seen[names[0]]
            pre_scale = None
            if kind != "fp8":
                pre_scale = np.exp(rng.normal(0, 0.4, inputs.shape[-1])).astype(np.float32)
                if equal and group == ("self_attn.o_proj",):
                    heads = pre_scale.reshape(model.num_kv_heads, -1, model.head_dim)
                    pre_scale = np.broadcast_to(heads[:, :1], heads.shape).reshape(-1)
            input_amax = np.abs(inputs * (1 if pre_scale is None else pre_scale)).max()
            for name in names:
                weight = llama.weights[name]
                scaled = np.abs(weight if pre_scale is None else weight / pre_scale)
                if kind == "int4_awq":
                    short = -scaled.shape[1] % block
                    blocks = np.pad(scaled, ((0, 0), (0, short))).reshape(len(scaled), -1, block)
                    amax = blocks.max(2)
                else:
                    amax = scaled.max(1) if kind == "int8_sq" else np.array(scaled.max())
                linears[name] = LinearScales(
                    amax.astype(np.float32),
                    pre_scale,
                    None if kind == "int4_awq" else float(input_amax),
                )
    cache = {}
    for layer in range(model.num_layers if kv is not None else 0):
        for part in ("key", "value"):
            states = np.abs(seen[f"{layer}.{part}"]).astype(np.float32)
            peak = states.max().reshape(1) if per_tensor else states.max(1).reshape(-1)
            cache[f"{layer}.{part}"] = peak
    return Scales(kind, block, linears, kv, cache)
