"""A process that asks the plugins as TensorRT's builder does, and the questions for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgellama.optimize.kernels.attention_shape import AttentionShape

SHAPE = AttentionShape(kv_heads=8, group=4, head_dim=128, dtype="fp16", kv_dtype="fp8")
SLOTS, CAPACITY = 16, 4096
# Profile's name of a number format -> the member of `tensorrt.DataType`.
TYPES = {"fp16": "HALF", "bf16": "BF16", "fp8": "FP8", "int8": "INT8"}
Question = dict[str, Any]


class Builder:
    """The process that asks the plugins; it lives as long as its questions."""

    def __init__(self, site: Path, kernels: Path, *faults: str) -> None:
        script = Path(__file__).with_name("drive_plugin.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(site), str(kernels), *faults],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.registered = self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None and self._process.stderr is not None
        while line := self._process.stdout.readline():
            if line.startswith("{"):  # TensorRT logs there too
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise AssertionError(self._process.stderr.read())

    def ask(self, question: Question) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def attention(
    op: str, tokens: int, rows: int, shape: AttentionShape = SHAPE, **attributes: int
) -> Question:
    cache = [SLOTS, shape.kv_heads, CAPACITY, shape.head_dim]
    table, steps = [CAPACITY, shape.head_dim // 2], [shape.kv_heads, shape.head_dim]
    own, kept = TYPES[shape.dtype], TYPES[shape.kv_dtype]
    return {
        "op": op,
        "attributes": {"kv_heads": shape.kv_heads, "group": shape.group, **attributes},
        "shapes": [[tokens, shape.width], cache, cache, [rows, 4], table, table, steps, steps],
        "types": [own, kept, kept, "INT32", *["FLOAT"] * 4],
    }
