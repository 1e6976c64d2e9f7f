"""Check `onnxruntime`: its GroupQueryAttention on CUDA, beside the project's kernel."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
import onnx_ir as ir

from edgellama.benchmark.check import Job
from edgellama.benchmark.gpu_facts import installed
from edgellama.benchmark.outcome import CheckSkipped

_PACKAGE = "onnxruntime-gpu"
_CUDA = "CUDAExecutionProvider"
HEADS, GROUP, SIZE = 8, 4, 128  # of Llama 3 8B
POINTS = ((1, 8192), (8, 8192))  # rows and context
RUNS, ROUNDS = 20, 5


def attention_model(kind: ir.DataType) -> bytes:
    """Return a model of one `GroupQueryAttention` over shared caches, without rotation."""
    wide, narrow = HEADS * GROUP * SIZE, HEADS * SIZE
    cache = ("batch", HEADS, "capacity", SIZE)
    inputs = [
        ir.val("query", kind, ("batch", 1, wide)),
        ir.val("key", kind, ("batch", 1, narrow)),
        ir.val("value", kind, ("batch", 1, narrow)),
        ir.val("past_key", kind, cache),
        ir.val("past_value", kind, cache),
        ir.val("seqlens_k", ir.DataType.INT32, ("batch",)),
        ir.val("total", ir.DataType.INT32, ()),
    ]
    outputs = [
        ir.val("attention", kind, ("batch", 1, wide)),
        ir.val("present_key", kind, cache),
        ir.val("present_value", kind, cache),
    ]
    node = ir.node(
        "GroupQueryAttention",
        inputs,
        {"num_heads": HEADS * GROUP, "kv_num_heads": HEADS},
        domain="com.microsoft",
        outputs=outputs,
    )
    opsets = {"": 21, "com.microsoft": 1}
    graph = ir.Graph(inputs, outputs, nodes=[node], opset_imports=opsets, name="attention")
    return ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()


def run_ms(provider: str, device: str, rows: int, context: int, kind: ir.DataType) -> float:
    """Return the milliseconds of one call: the median of some rounds, its overhead included."""
    import onnxruntime as ort

    session = ort.InferenceSession(attention_model(kind), providers=[provider])
    number = kind.numpy()
    make = ort.OrtValue.ortvalue_from_numpy
    rng = np.random.default_rng(7)

    def random(*shape: int) -> Any:
        return make(rng.standard_normal(shape, np.float32).astype(number), device, 0)

    width = HEADS * SIZE
    feeds = {
        "query": random(rows, 1, GROUP * width),
        "key": random(rows, 1, width),
        "value": random(rows, 1, width),
        "past_key": random(rows, HEADS, context, SIZE),
        "past_value": random(rows, HEADS, context, SIZE),
        "seqlens_k": make(np.full(rows, context - 1, np.int32), device, 0),
    }
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_cpu_input("total", np.array(context, np.int32))
    binding.bind_output("attention", device, 0)
    binding.bind_ortvalue_output("present_key", feeds["past_key"])
    binding.bind_ortvalue_output("present_value", feeds["past_value"])
    rounds = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        for _ in range(RUNS):
            session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        rounds.append((time.perf_counter() - began) / RUNS * 1000)
    return median(rounds[1:])  # the first one warms up


def check_onnxruntime(job: Job) -> dict[str, Any]:
    """Return its milliseconds at each point, and ours where they were measured before."""
    found = installed(_PACKAGE)
    if found is None:
        raise CheckSkipped(f"{_PACKAGE} is not installed")
    import onnxruntime as ort

    if _CUDA not in ort.get_available_providers():
        raise CheckSkipped(f"{_PACKAGE} {found} has no {_CUDA} on this machine")
    ours = {
        (point["rows"], point["past"] + 1): point["ours"]["ms"]
        for point in job.figures.get("kernel-speed", {}).get("points", ())
        if point["tokens"] == 1 and point["cache"] == "fp16"
    }
    points = [
        {
            "rows": rows,
            "context": context,
            "ms": run_ms(_CUDA, "cuda", rows, context, ir.DataType.FLOAT16),
            "ours_ms": ours.get((rows, context)),
        }
        for rows, context in POINTS
    ]
    return {_PACKAGE: found, "points": points, "engines": "none: target ort is made for a CPU"}
