"""Check `kernel-model`: a decode step of whole models, attention ours or torch's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from edgellama.benchmark.check import Job
from edgellama.benchmark.gpu_kernel_speed import Point, make_inputs, our_work, peer_works
from edgellama.benchmark.gpu_timing import Work, time_in_turns
from edgellama.benchmark.outcome import CheckSkipped
from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.profiles.kernels import PROGRAMS_EACH

BATCHES, CONTEXT = (1, 8), 8192
_SPARE = 1.2


@dataclass(frozen=True)
class Sizes:
    """What a decode step of a model multiplies; layers share one set of weights where `distinct`
    is fewer than `layers`, which is still far more than a cache of a GPU holds."""

    name: str
    hidden: int
    intermediate: int
    vocab: int
    layers: int
    distinct: int
    shape: AttentionShape

    @property
    def bytes(self) -> int:
        """Bytes of the weights that are made, in float16."""
        layer = self.hidden * (
            self.shape.width + self.shape.heads * self.shape.head_dim + 3 * self.intermediate
        )
        return 2 * (self.distinct * layer + self.vocab * self.hidden)


def sizes(cache: str) -> tuple[Sizes, ...]:
    """Return a layer of 8B, and whole models of 1B and 8B, in float16."""
    small = AttentionShape(8, 4, 64, "fp16", cache)
    large = AttentionShape(8, 4, 128, "fp16", cache)
    return (
        Sizes("a layer of 8B", 4096, 14336, 0, 1, 1, large),
        Sizes("1B", 2048, 8192, 128256, 16, 16, small),
        Sizes("8B", 4096, 14336, 128256, 32, 8, large),
    )


def step_works(model: Sizes, rows: int, sm: int, programs: int) -> dict[str, Work]:
    """Return a step with our attention and one with the fastest of torch's.

    Torch's rotates and appends with its own operators, as a program without a fused one would. What
    an attention says is not used: the linear behind it gets as many other numbers.
    """
    shape, point = model.shape, Point(rows, 1, CONTEXT - 1)

    def weight(outputs: int, inputs: int) -> torch.Tensor:
        made = torch.randn(outputs, inputs, device="cuda", dtype=torch.float16)
        return made.div_(inputs**0.5)

    middle, width = model.intermediate, shape.heads * shape.head_dim
    layers = [
        (
            weight(shape.width, model.hidden),
            weight(model.hidden, width),
            weight(2 * middle, model.hidden),
            weight(model.hidden, middle),
        )
        for _ in range(model.distinct)
    ]
    head = weight(model.vocab, model.hidden) if model.vocab else None
    norm = torch.ones(model.hidden, device="cuda", dtype=torch.float16)
    x = torch.randn(rows, model.hidden, device="cuda", dtype=torch.float16)
    linear, rms = torch.nn.functional.linear, torch.nn.functional.rms_norm
    ours = our_work(shape, point, sm, programs)
    peers_of = peer_works(shape, point)
    peers = time_in_turns(peers_of)
    best = min(peers, key=lambda name: peers[name].ms)
    inputs = make_inputs(shape, point)

    def torch_attention(qkv: torch.Tensor) -> object:
        heads = qkv.view(rows, -1, shape.head_dim)
        query, key, value = torch.tensor_split(
            heads, (shape.heads, shape.heads + shape.kv_heads), 1
        )
        cos, sin = inputs.cos[point.past], inputs.sin[point.past]
        for turned in (query, key):
            a, b = turned.float().chunk(2, -1)
            turned.copy_(torch.cat([a * cos - b * sin, b * cos + a * sin], -1))
        for cache, new in ((inputs.past_key, key), (inputs.past_value, value)):
            cache[:, :, point.past] = new.to(cache.dtype)
        return peers_of[best]()

    def step(attention: Any) -> torch.Tensor:
        hidden = x
        for index in range(model.layers):
            packed, out, gate_up, down = layers[index % model.distinct]
            qkv = linear(rms(hidden, (model.hidden,), norm), packed)
            attention(qkv)
            hidden = hidden + linear(qkv[:, :width].contiguous(), out)
            gate, up = linear(rms(hidden, (model.hidden,), norm), gate_up).chunk(2, -1)
            hidden = hidden + linear(torch.nn.functional.silu(gate) * up, down)
        return hidden if head is None else linear(rms(hidden, (model.hidden,), norm), head)

    return {
        "ours": lambda: step(lambda _qkv: ours()),
        f"torch {best}": lambda: step(torch_attention),
    }


def check_kernel_model(_job: Job) -> dict[str, Any]:
    """Measure what fits the first GPU; raises CheckSkipped where nothing does."""
    major, minor = torch.cuda.get_device_capability()
    sm = 10 * major + minor
    programs = PROGRAMS_EACH * torch.cuda.get_device_properties(0).multi_processor_count
    points, left_out = [], []
    for model in sizes("fp16"):
        if model.bytes * _SPARE > torch.cuda.mem_get_info()[0]:
            left_out.append(f"{model.name}: {model.bytes / 1e9:.1f} GB of weights do not fit")
            continue
        for rows in BATCHES:
            timings = time_in_turns(step_works(model, rows, sm, programs))
            (peer,) = (name for name in timings if name != "ours")
            points.append(
                {
                    "model": model.name,
                    "rows": rows,
                    "context": CONTEXT,
                    "peer": peer,
                    "ratio": timings[peer].ms / timings["ours"].ms,
                    "tokens_per_s": 1000 * rows / timings["ours"].ms,
                    "timings": {name: each.as_dict() for name, each in timings.items()},
                }
            )
            torch.cuda.empty_cache()
    if not points:
        raise CheckSkipped("; ".join(left_out))
    return {"points": points, "left_out": left_out}
