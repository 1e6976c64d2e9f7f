"""The plugins on TensorRT's real bindings: what its builder would be told, in numbers.

The bindings' wheel is NVIDIA's; the libraries under it are empty, so nothing is built or run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from builder_process import CAPACITY, SHAPE, SLOTS, TYPES, Builder, attention
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.optimize.error import BuildError
from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.optimize.kernels.kernel_files import CompiledKernel, write_kernels
from edgellama.optimize.kernels.pieces import MAX_PIECES, PIECE_LINES, count_pieces, count_tiles
from edgellama.optimize.kernels.plugin import register_plugins

BLOCKS = {1: 16, 2: 64}  # tactic -> lines of its tile


def made_up(
    op: str, kernel: str, tactic: int, shape: AttentionShape
) -> tuple[CompiledKernel, bytes]:
    """Return a kernel whose code is its name: nothing here reads it."""
    code = f"{kernel}, tactic {tactic}".encode()
    heads = {"KV_HEADS": shape.kv_heads, "GROUP": shape.group}
    constants: dict[str, int | float | bool] = {"D": shape.head_dim}
    if op == "CombinePieces":
        constants["PIECES"] = MAX_PIECES
    else:
        constants |= {"BLOCK_M": BLOCKS[tactic]} | heads
    record = CompiledKernel(
        op=op,
        tactic=tactic,
        kernel=kernel,
        entry=kernel,
        sm=89,
        code="cubin",
        file=f"{kernel}_{tactic}",
        sha256=sha256(code).hexdigest(),
        warps=4 * tactic,
        shared_bytes=1024 * tactic,
        registers=128,
        spill_bytes=0,
        code_bytes=len(code),
        ptx_version="8.4",
        dtype=shape.dtype,
        kv_dtype=shape.kv_dtype,
        constants=constants,
    )
    return record, code


def kernels_of(shape: AttentionShape) -> list[tuple[CompiledKernel, bytes]]:
    return [
        *(made_up("FusedGQA", "fused_gqa", tactic, shape) for tactic in BLOCKS),
        *(made_up("FusedGQAPieces", "fused_gqa_pieces", tactic, shape) for tactic in BLOCKS),
        made_up("CombinePieces", "combine_pieces", 1, shape),
        *(linear(tactic, shape) for tactic in (1, 2, 3)),
    ]


def linear(tactic: int, shape: AttentionShape) -> tuple[CompiledKernel, bytes]:
    """Return an INT4 linear of a row at a time, of 16 rows or of 64."""
    record, code = made_up("Int4Linear", "int4_linear", 1, shape)
    rows = {1: 1, 2: 16, 3: 64}[tactic]
    constants = {"BLOCK_N": 8 * tactic} | ({"BLOCK_M": rows} if tactic > 1 else {})
    named = {"tactic": tactic, "file": f"int4_linear_{tactic}"}
    return replace(record, constants=constants, **named), code  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def builder(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    path = tmp_path_factory.mktemp("kernels") / "kernels.zip"
    write_kernels(path, kernels_of(SHAPE))
    process = Builder(site, path)
    yield process
    process.close()


def test_every_operator_is_registered_once(builder: Builder) -> None:
    names = ["CombinePieces", "FusedGQA", "FusedGQAPieces", "Int4Linear"]
    assert builder.registered == {
        "kernels": 8,
        "creators": [f"edgellama::{name}" for name in names],
    }


def check_whole(answer: dict[str, Any], tokens: int, rows: int) -> None:
    """Say all that the builder must be told of `FusedGQA`."""
    cache = [SLOTS, 8, CAPACITY, 128]
    assert answer["output_types"] == ["HALF", "FP8", "FP8"]
    assert answer["output_shapes"] == [[tokens, 32 * 128], cache, cache]
    assert answer["aliases"] == [-1, 1, 2], "present key is past key, present value is past value"
    cached = ["FP8", "FP8"]
    assert answer["combinations"] == [
        ["HALF", *cached, "INT32", "FLOAT", "FLOAT", "FLOAT", "FLOAT", "HALF", *cached]
    ]
    assert answer["formats"] == ["LINEAR"]
    assert answer["tactics"] == [1, 2]
    for tactic, launch in zip(answer["tactics"], answer["launches"], strict=True):
        longest = tokens - rows + 1
        assert launch["grid_x"] == -(-longest * 4 // BLOCKS[tactic])
        assert (launch["grid_y"], launch["grid_z"]) == (8, rows)
        assert (launch["block_x"], launch["block_y"], launch["block_z"]) == (128 * tactic, 1, 1)
        assert launch["shared_mem"] == 1024 * tactic
        assert launch["numbers"] == [CAPACITY]
        assert launch["entry"] == "fused_gqa"
        assert bytes.fromhex(launch["code"]) == f"fused_gqa, tactic {tactic}".encode()


@pytest.mark.parametrize(("tokens", "rows"), [(1, 1), (8, 8), (16, 16), (512, 1), (519, 8)])
def test_the_whole_attention(builder: Builder, tokens: int, rows: int) -> None:
    check_whole(builder.ask(attention("FusedGQA", tokens, rows)), tokens, rows)


def test_the_pieces_follow_one_rule(builder: Builder) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 600), st.integers(1, SLOTS), st.integers(1, 2000))
    def check(more: int, rows: int, programs: int) -> None:
        tokens = rows + more - 1
        answer = builder.ask(attention("FusedGQAPieces", tokens, rows, programs=programs))
        tiles = count_tiles(more, SHAPE.padded_group, PIECE_LINES)
        pieces = count_pieces(programs, tiles, SHAPE.kv_heads, rows)
        cache = [SLOTS, 8, CAPACITY, 128]
        partial, logs = [pieces, tokens, 32, 128], [pieces, tokens, 32]
        assert answer["output_shapes"] == [partial, logs, cache, cache]
        assert answer["output_types"] == ["FLOAT", "FLOAT", "FP8", "FP8"]
        assert answer["aliases"] == [-1, -1, 1, 2]
        for tactic, launch in zip(answer["tactics"], answer["launches"], strict=True):
            assert launch["grid_x"] == count_tiles(more, SHAPE.padded_group, BLOCKS[tactic])
            assert (launch["grid_y"], launch["grid_z"]) == (8 * pieces, rows)
            assert launch["numbers"] == [CAPACITY, tokens]

    check()


@pytest.mark.parametrize(("pieces", "tokens"), [(1, 512), (14, 1), (64, 3)])
def test_the_pieces_are_combined(builder: Builder, pieces: int, tokens: int) -> None:
    question = {
        "op": "CombinePieces",
        "attributes": {"dtype": "fp16"},
        "shapes": [[pieces, tokens, 32, 128], [pieces, tokens, 32]],
        "types": ["FLOAT", "FLOAT"],
    }
    answer = builder.ask(question)
    assert answer["output_types"] == ["HALF"]
    assert answer["output_shapes"] == [[tokens, 4096]]
    assert answer["combinations"] == [["FLOAT", "FLOAT", "HALF"]]
    (launch,) = answer["launches"]
    assert launch["grid_x"] == 32 * tokens and launch["grid_y"] == launch["grid_z"] == 1
    assert launch["numbers"] == [32 * tokens, pieces]


@pytest.mark.parametrize("sizes", [[1], [16, 1], [1, 512]])
def test_the_int4_linear(builder: Builder, sizes: list[int]) -> None:
    """Whatever the axes before the inputs, they are rows."""
    question = {
        "op": "Int4Linear",
        "attributes": {},
        "shapes": [[*sizes, 4096], [6144, 2048], [6144, 32]],
        "types": ["HALF", "INT8", "HALF"],
    }
    answer = builder.ask(question)
    assert answer["output_types"] == ["HALF"] and answer["output_shapes"] == [[*sizes, 6144]]
    assert answer["combinations"] == [["HALF", "INT8", "HALF", "HALF"]]
    assert answer["aliases"] == [-1] and answer["tactics"] == [1, 2, 3]
    rows = math.prod(sizes)
    for tactic, launch in zip(answer["tactics"], answer["launches"], strict=True):
        across = {1: rows, 2: -(-rows // 16), 3: -(-rows // 64)}[tactic]
        grid = [launch[f"grid_{axis}"] for axis in "xyz"]
        assert grid == [6144 // (8 * tactic), across, 1]
        assert launch["numbers"] == [rows, 6144, 4096]


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("kv_dtype", ["same", "int8", "fp8"])
def test_the_types_are_those_that_were_compiled(
    site: Path, tmp_path: Path, dtype: str, kv_dtype: str
) -> None:
    shape = replace(SHAPE, dtype=dtype, kv_dtype=dtype if kv_dtype == "same" else kv_dtype)
    write_kernels(tmp_path / "kernels.zip", kernels_of(shape))
    process = Builder(site, tmp_path / "kernels.zip")
    answer = process.ask(attention("FusedGQA", 4, 4, shape))
    process.close()
    own, kept = TYPES[shape.dtype], TYPES[shape.kv_dtype]
    floats = ["INT32", "FLOAT", "FLOAT", "FLOAT", "FLOAT"]
    assert answer["combinations"] == [[own, kept, kept, *floats, own, kept, kept]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kv_heads": 4}, "'KV_HEADS': 4"),
        ({"group": 2}, "'GROUP': 2"),
    ],
)
def test_a_node_of_other_heads_has_no_kernel(
    builder: Builder, change: dict[str, int], words: str
) -> None:
    question = attention("FusedGQA", 4, 4)
    question["attributes"] |= change
    error = builder.ask(question)["error"]
    assert "has no kernel" in error and words in error and "build the bundle again" in error


def test_a_node_of_another_head_size_has_no_kernel(builder: Builder) -> None:
    question = attention("FusedGQA", 4, 4, replace(SHAPE, head_dim=64))
    assert "'D': 64" in builder.ask(question)["error"]


def test_a_cache_of_another_type_is_in_no_combination(builder: Builder) -> None:
    """The builder then finds no format that fits, and refuses the node."""
    answer = builder.ask(attention("FusedGQA", 4, 4, replace(SHAPE, kv_dtype="int8")))
    assert "error" in answer or all(kinds[1] == "FP8" for kinds in answer["combinations"])


def test_an_altered_file_registers_nothing(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "kernels.zip"
    record, code = kernels_of(SHAPE)[0]
    write_kernels(path, [(replace(record, sha256="0" * 64), code)])
    process = Builder(site, path)
    process.close()
    assert "the sha256 of fused_gqa_1 is not that of kernels.json" in process.registered["error"]


def test_a_kernel_of_no_operator_is_refused(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "kernels.zip"
    record, code = kernels_of(SHAPE)[0]
    write_kernels(path, [(replace(record, op="FusedMLP"), code)])
    process = Builder(site, path)
    process.close()
    assert "has kernels of FusedMLP; known:" in process.registered["error"]


def test_a_builder_lets_the_plugins_write_their_caches(builder: Builder) -> None:
    answer = builder.ask({"gpu": "l4", "takes": True})
    assert answer == {"features": ["ALIASED_PLUGIN_IO_10_03"]}


def test_a_builder_that_does_not_is_refused(builder: Builder) -> None:
    error = builder.ask({"gpu": "l4", "takes": False})["error"]
    assert "does not let a plugin write its input" in error and "ALIASED_PLUGIN_IO_10_03" in error


def test_kernels_of_another_gpu_are_refused(builder: Builder) -> None:
    error = builder.ask({"gpu": "a100", "takes": True})["error"]
    assert "fused_gqa_1 is for compute capability 8.9, the profile for 8.0" in error


def test_tensorrt_for_rtx_has_no_such_plugins(tmp_path: Path) -> None:
    library = pytest.importorskip("tensorrt_rtx")
    write_kernels(tmp_path / "kernels.zip", kernels_of(SHAPE))
    with pytest.raises(BuildError, match=r"module tensorrt_rtx\.plugin cannot be imported"):
        register_plugins(library, tmp_path / "kernels.zip")


# What is planted in the answers of the plugins, as a wrong plugin would give them.
FAULTS = {
    "aliases swapped": {"aliases": [-1, 2, 1]},
    "no alias": {"aliases": [-1, -1, -1]},
    "a cache of half precision": {"output_types": ["HALF", "HALF", "HALF"]},
    "tokens of the cache": {"output_shapes": [[CAPACITY, 4096], [16, 8, 4096, 128]]},
    "another combination": {"combinations": [["HALF"] * 11]},
    "one tactic": {"tactics": [1], "launches": []},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(builder: Builder, fault: str) -> None:
    answer = builder.ask(attention("FusedGQA", 8, 8))
    check_whole(answer, 8, 8)
    with pytest.raises((AssertionError, ValueError)):
        check_whole(answer | FAULTS[fault], 8, 8)


@pytest.mark.parametrize("part", ["grid_x", "grid_y", "grid_z", "block_x", "shared_mem"])
def test_a_planted_launch_is_found(builder: Builder, part: str) -> None:
    answer = builder.ask(attention("FusedGQA", 8, 8))
    answer["launches"][0][part] += 1
    with pytest.raises(AssertionError):
        check_whole(answer, 8, 8)


def test_swapped_numbers_are_found(builder: Builder) -> None:
    answer = builder.ask(attention("FusedGQA", 8, 8))
    answer["launches"][1]["numbers"] = [CAPACITY, 8]
    with pytest.raises(AssertionError):
        check_whole(answer, 8, 8)
