"""What every kernel takes on every GPU, as docs/measurements/kernels.md has it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.optimize.kernels.compile import compile_kernels
from edgellama.optimize.kernels.int4_spec import int4_specs
from edgellama.optimize.kernels.kernel_files import CompiledKernel
from edgellama.optimize.kernels.kernel_spec import KernelSpec, attention_specs
from edgellama.profiles.kernels import FP8_SINCE, PTX_SINCE

# Llama's heads: key heads, query heads to each, features.
MODELS = {"1B": (8, 4, 64), "3B": (8, 3, 128), "8B": (8, 4, 128), "70B": (8, 8, 128)}
_EVERY_TYPE = ("1B", "8B")  # the others in float16 only


def shapes(sm: int) -> Iterator[tuple[str, AttentionShape]]:
    """Yield every model's attention in every type that a GPU has."""
    for model, (kv_heads, group, size) in MODELS.items():
        dtypes = ("fp16", "bf16") if model in _EVERY_TYPE else ("fp16",)
        caches = ("", "int8", "fp8") if sm >= FP8_SINCE else ("", "int8")
        for dtype, cache in product(dtypes, caches):
            yield model, AttentionShape(kv_heads, group, size, dtype, cache or dtype)


def specs(sm: int) -> Iterator[tuple[str, KernelSpec]]:
    """Yield every kernel once, with the model that it is for."""
    combined = set()
    for model, shape in shapes(sm):
        for spec in attention_specs(shape, sm, pieces=True):
            if spec.op == "CombinePieces":
                key = (shape.head_dim, shape.dtype)
                if key in combined:
                    continue
                combined.add(key)
            yield model, spec
        if model == "8B" and shape.dtype == "fp16":
            for spec in attention_specs(shape, sm, pieces=False):
                yield model, spec
    for dtype in ("fp16", "bf16"):
        for spec in int4_specs(dtype):
            yield "any", spec


def compiled(sm: int, cache: Path | None = None) -> list[tuple[str, CompiledKernel]]:
    """Compile all of them for one GPU."""
    wanted = list(specs(sm))
    made = compile_kernels([spec for _, spec in wanted], sm, code="cubin", cache=cache)
    return [(model, kernel) for (model, _), (kernel, _) in zip(wanted, made, strict=True)]


def table(cache: Path | None = None) -> str:
    """Return a row a kernel and a column a GPU: registers a thread, KiB of shared memory a program
    and KiB of code, each the largest over the models; and the spilled bytes of all."""
    found: dict[tuple[str, int, str], dict[int, list[CompiledKernel]]] = {}
    for sm in PTX_SINCE:
        for _, kernel in compiled(sm, cache):
            kinds = f"{kernel.dtype}, {kernel.kv_dtype}"
            size = int(kernel.constants.get("D", 0))
            row = found.setdefault((f"{kernel.kernel} {kernel.tactic}", size, kinds), {})
            row.setdefault(sm, []).append(kernel)
    heads = " | ".join(f"{sm / 10}" for sm in PTX_SINCE)
    lines = [f"| kernel, tactic | head size | type, cache | {heads} |", f"|{'---|' * 12}"]
    for (name, size, kinds), by_sm in sorted(found.items()):
        cells = [_cell(by_sm.get(sm, [])) for sm in PTX_SINCE]
        lines.append(f"| `{name}` | {size or ''} | {kinds} | {' | '.join(cells)} |")
    every = [kernel for row in found.values() for kernels in row.values() for kernel in kernels]
    spilled = sum(kernel.spill_bytes for kernel in every)
    return "\n".join([*lines, "", f"{len(every)} kernels; spilled bytes: {spilled}"])


def _cell(kernels: list[CompiledKernel]) -> str:
    if not kernels:
        return ""
    registers = max(kernel.registers for kernel in kernels)
    shared = max(kernel.shared_bytes for kernel in kernels) / 1024
    code = max(kernel.code_bytes for kernel in kernels) / 1024
    return f"{registers}, {shared:.0f}, {code:.0f}"
