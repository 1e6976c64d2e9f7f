"""What a plugin hands to its kernel is what the kernel was compiled for, argument by argument.

Faults are planted in the plugins themselves, and found by the same checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from builder_process import CAPACITY, SHAPE, Builder, attention

from edgellama.optimize.kernels.int4_spec import int4_specs
from edgellama.optimize.kernels.kernel_files import CompiledKernel, write_kernels
from edgellama.optimize.kernels.kernel_spec import KernelSpec, attention_specs
from edgellama.optimize.kernels.pieces import PIECE_LINES, count_pieces, count_tiles
from edgellama.optimize.kernels.plugin_operators import OPERATORS, Operator

SM = 89
SPECS = (
    *attention_specs(SHAPE, SM, pieces=False),
    *attention_specs(SHAPE, SM, pieces=True),
    *int4_specs(SHAPE.dtype),
)
# Triton's name of a pointer's type -> the member of `tensorrt.DataType`.
POINTERS = {"*fp16": "HALF", "*fp8e4nv": "FP8", "*i8": "INT8", "*i32": "INT32", "*fp32": "FLOAT"}
TOKENS, ROWS, PROGRAMS = 40, 3, 2000
LONGEST = TOKENS - ROWS + 1
PIECES = count_pieces(
    PROGRAMS, count_tiles(LONGEST, SHAPE.padded_group, PIECE_LINES), SHAPE.kv_heads, ROWS
)


def uncompiled(spec: KernelSpec) -> tuple[CompiledKernel, bytes]:
    """Return a kernel of a spec whose code is its name: nothing here runs it."""
    code = spec.name.encode()
    record = CompiledKernel(
        op=spec.op,
        tactic=spec.tactic,
        kernel=spec.function,
        entry=spec.function,
        sm=SM,
        code="cubin",
        file=spec.name,
        sha256=sha256(code).hexdigest(),
        warps=spec.warps,
        shared_bytes=4096,
        registers=128,
        spill_bytes=0,
        code_bytes=len(code),
        ptx_version="8.4",
        dtype=spec.dtype,
        kv_dtype=spec.kv_dtype,
        constants=dict(spec.constants),
    )
    return record, code


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kernels") / "kernels.zip"
    write_kernels(path, [uncompiled(spec) for spec in SPECS])
    return path


@pytest.fixture(scope="module")
def builder(site: Path, kernels: Path) -> Iterator[Builder]:
    process = Builder(site, kernels)
    yield process
    process.close()


QUESTIONS: Mapping[str, dict[str, Any]] = {
    "FusedGQA": attention("FusedGQA", TOKENS, ROWS),
    "FusedGQAPieces": attention("FusedGQAPieces", TOKENS, ROWS, programs=PROGRAMS),
    "CombinePieces": {
        "op": "CombinePieces",
        "attributes": {"dtype": SHAPE.dtype},
        "shapes": [[PIECES, TOKENS, SHAPE.heads, 128], [PIECES, TOKENS, SHAPE.heads]],
        "types": ["FLOAT", "FLOAT"],
    },
    "Int4Linear": {
        "op": "Int4Linear",
        "attributes": {},
        "shapes": [[TOKENS, 2048], [512, 1024], [512, 16]],
        "types": ["HALF", "INT8", "HALF"],
    },
}
# What a kernel's numbers must be, by the name of its argument; no two of an operator are equal.
NUMBERS = {
    "capacity": CAPACITY,
    "tokens": TOKENS,
    "lines": TOKENS * SHAPE.heads,
    "pieces": PIECES,
    "rows": TOKENS,
    "outputs": 512,
    "inputs": 2048,
}


def grid(spec: KernelSpec) -> tuple[int, int, int]:
    """Return how many programs a kernel's docstring asks for."""
    size = spec.constants
    if spec.op == "CombinePieces":
        return TOKENS * SHAPE.heads, 1, 1
    if spec.op == "Int4Linear":
        return -(-512 // int(size["BLOCK_N"])), -(-TOKENS // int(size.get("BLOCK_M", 1))), 1
    tiles = count_tiles(LONGEST, SHAPE.padded_group, int(size["BLOCK_M"]))
    pieces = PIECES if spec.op == "FusedGQAPieces" else 1
    return tiles, SHAPE.kv_heads * pieces, ROWS


def check_names(operator: Operator, spec: KernelSpec) -> None:
    """Hold an operator's inputs to the first arguments of its kernel, by name."""
    names = list(spec.arguments)
    numbers = [name for name, kind in spec.arguments.items() if not kind.startswith("*")]
    inputs, behind = len(operator.inputs), len(operator.inputs) + len(numbers)
    assert names[:inputs] == list(operator.inputs)
    assert names[inputs:behind] == numbers, "numbers stand between inputs and outputs"
    assert len(names) - behind == operator.outputs


def check_answer(answer: Mapping[str, Any], specs: Sequence[KernelSpec]) -> None:
    """Hold what a builder was told to the kernels: types, numbers, launch, aliases by name."""
    assert answer["tactics"] == [spec.tactic for spec in specs]
    for spec, launch in zip(specs, answer["launches"], strict=True):
        pointers = [(n, POINTERS[k]) for n, k in spec.arguments.items() if k.startswith("*")]
        names = [name for name, _ in pointers]
        kinds = [kind for _, kind in pointers]
        assert answer["combinations"] == [kinds]
        outputs = len(answer["output_types"])
        assert answer["output_types"] == kinds[-outputs:]
        assert answer["aliases"] == [
            names.index(name.replace("present", "past")) if name.startswith("present") else -1
            for name in names[-outputs:]
        ]
        numbers = [name for name, kind in spec.arguments.items() if kind == "i32"]
        assert launch["numbers"] == [NUMBERS[name] for name in numbers]
        assert tuple(launch[f"grid_{axis}"] for axis in "xyz") == grid(spec)
        assert launch["block_x"] == 32 * spec.warps and launch["shared_mem"] == 4096
        assert launch["entry"] == spec.function
        assert bytes.fromhex(launch["code"]).decode() == spec.name


def of(op: str) -> list[KernelSpec]:
    return [spec for spec in SPECS if spec.op == op]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda each: each.name)
def test_the_inputs_are_the_kernels_first_arguments(operator: Operator) -> None:
    for spec in of(operator.name):
        check_names(operator, spec)


@pytest.mark.parametrize("pair", [("past_key", "past_value"), ("cos", "sin"), ("rows", "qkv")])
def test_inputs_in_another_order_are_found(pair: tuple[str, str]) -> None:
    swapped = dict(zip(pair, reversed(pair), strict=True))
    for operator in OPERATORS[:2]:
        inputs = tuple(swapped.get(name, name) for name in operator.inputs)
        with pytest.raises(AssertionError):
            check_names(replace(operator, inputs=inputs), of(operator.name)[0])


@pytest.mark.parametrize("op", QUESTIONS)
def test_a_kernel_gets_what_it_was_compiled_for(builder: Builder, op: str) -> None:
    assert PIECES > 1
    check_answer(builder.ask(QUESTIONS[op]), of(op))


@pytest.mark.parametrize(
    ("fault", "op"),
    [
        ("swapped aliases", "FusedGQA"),
        ("swapped aliases", "FusedGQAPieces"),
        ("no alias", "FusedGQA"),
        ("alias of another input", "FusedGQA"),
        ("wrong type of an output", "FusedGQA"),
        ("wrong type of the cache", "FusedGQA"),
        ("wrong type of the rows", "FusedGQAPieces"),
        ("wrong order of the numbers", "FusedGQAPieces"),
        ("a number too many", "FusedGQA"),
        ("wrong order of the grid", "FusedGQA"),
        ("tiles of half the size", "FusedGQAPieces"),
    ],
)
def test_a_fault_in_the_plugin_is_found(site: Path, kernels: Path, fault: str, op: str) -> None:
    process = Builder(site, kernels, fault)
    answer = process.ask(QUESTIONS[op])
    process.close()
    if "error" in answer:  # TensorRT's bindings refuse it themselves
        assert "AssertionError" in answer["error"], answer["error"]
        return
    with pytest.raises(AssertionError):
        check_answer(answer, of(op))
