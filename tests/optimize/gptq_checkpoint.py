"""A checkpoint as GPTQ writes it, with codes that a test knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

BLOCK = 32


def gptq(folder: Path, *, zero: int = 8) -> dict[str, Any]:
    """Turn a checkpoint into a GPTQ one with random codes; returns the codes [N, K] by weight."""
    tensors = load_file(folder / "model.safetensors")
    draw = np.random.default_rng(3)
    codes = {}
    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        rows, columns = tensors.pop(name).shape
        code = draw.integers(0, 16, (rows, columns), dtype=np.uint32)
        words = np.zeros((columns // 8, rows), np.uint32)
        for place in range(8):
            words |= code[:, place::8].T << np.uint32(4 * place)
        stem = name.removesuffix(".weight")
        word = sum((zero - 1) << 4 * place for place in range(8))
        zeros = np.full((columns // BLOCK, rows // 8), word, np.uint32)
        scales = draw.uniform(0.01, 0.03, (columns // BLOCK, rows)).astype(np.float16)
        tensors[f"{stem}.qweight"] = torch.from_numpy(words.view(np.int32))
        tensors[f"{stem}.qzeros"] = torch.from_numpy(zeros.view(np.int32))
        tensors[f"{stem}.scales"] = torch.from_numpy(scales)
        tensors[f"{stem}.g_idx"] = torch.arange(columns, dtype=torch.int32) // BLOCK
        codes[name] = code.astype(np.int8) - zero
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": BLOCK,
        "sym": zero == 8,
        "desc_act": False,
        "checkpoint_format": "gptq",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return codes
