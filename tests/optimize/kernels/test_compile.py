"""Kernels compiled for GPUs that are not here: registers, memory, arguments, refusals."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton")

from edgellama.optimize.error import BuildError
from edgellama.optimize.kernels.assemble import assemble
from edgellama.optimize.kernels.attention_shape import AttentionShape
from edgellama.optimize.kernels.compile import compile_kernels
from edgellama.optimize.kernels.hidden_arguments import count_arguments, strip_hidden_arguments
from edgellama.optimize.kernels.int4_spec import int4_specs
from edgellama.optimize.kernels.kernel_files import CompiledKernel
from edgellama.optimize.kernels.kernel_spec import (
    KernelSpec,
    attention_spec,
    attention_specs,
    combine_spec,
)
from edgellama.optimize.kernels.tiles import (
    SHARED_LIMIT,
    USES,
    WIDE,
    WIDE_HEAD_SIZES,
    load_tiles,
)
from edgellama.profiles.kernels import FP8_SINCE, HEAD_SIZES, PTX_SINCE

SHAPE = AttentionShape(kv_heads=2, group=2, head_dim=16, dtype="fp16", kv_dtype="int8")
SMALL = combine_spec(SHAPE)
ELF = b"\x7fELF"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


def check(kernel: CompiledKernel, code: bytes) -> None:
    assert kernel.spill_bytes == 0, f"{kernel.file} spills {kernel.spill_bytes} bytes"
    assert kernel.shared_bytes <= SHARED_LIMIT, f"{kernel.file} takes {kernel.shared_bytes} bytes"
    assert 0 < kernel.registers <= 255
    assert kernel.code_bytes == len(code)


def test_a_model_gets_all_its_kernels(cache: Path) -> None:
    done: list[tuple[str, int, int]] = []
    made = compile_kernels(
        attention_specs(SHAPE, 89, pieces=True),
        89,
        code="cubin",
        cache=cache,
        progress=lambda *step: done.append(step),
    )
    assert [(kernel.op, kernel.tactic) for kernel, _ in made] == [
        ("FusedGQAPieces", 1),
        ("FusedGQAPieces", 2),
        ("CombinePieces", 1),
    ]
    for kernel, code in made:
        assert code.startswith(ELF) and kernel.sm == 89
        check(kernel, code)
    assert done[-1] == ("compile kernels", 3, 3)


def test_the_same_kernel_is_the_same_bytes_and_is_kept(cache: Path, tmp_path: Path) -> None:
    first = compile_kernels([SMALL], 80, code="cubin", cache=cache)
    again = compile_kernels([SMALL], 80, code="cubin", cache=tmp_path)
    assert first == again, "compiled twice"
    done: list[int] = []

    def progress(_what: str, count: int, _total: int) -> None:
        done.append(count)

    assert compile_kernels([SMALL], 80, code="cubin", cache=cache, progress=progress) == first
    assert done == [1], "nothing was left to compile"


def test_a_damaged_result_is_compiled_again(tmp_path: Path) -> None:
    first = compile_kernels([SMALL], 80, code="ptx", ptx_version=(8, 4), cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-40])
    assert compile_kernels([SMALL], 80, code="ptx", ptx_version=(8, 4), cache=tmp_path) == first


def test_ptx_has_the_version_that_was_asked_for(cache: Path) -> None:
    ((kernel, code),) = compile_kernels([SMALL], 87, code="ptx", ptx_version=(8, 2), cache=cache)
    text = code.decode()
    assert ".version 8.2" in text and ".target sm_87" in text and kernel.ptx_version == "8.2"
    assert re.search(rf"\.entry {kernel.entry}\(", text)
    assert count_arguments(text) == len(SMALL.arguments)


def test_no_path_or_line_of_the_source_is_in_the_code(cache: Path) -> None:
    for form, version in (("cubin", None), ("ptx", (8, 4))):
        ((_, code),) = compile_kernels([SMALL], 89, code=form, ptx_version=version, cache=cache)
        assert os.fsencode(Path.cwd().anchor + "work") not in code
        assert b"combine_pieces.py" not in code and b"/kernels/" not in code


@pytest.mark.parametrize(
    ("sm", "code", "version", "words"),
    [
        (75, "cubin", None, "sm is 75; kernels are compiled for 80, 86"),
        (89, "elf", None, "code is 'elf'; it must be one of cubin, ptx"),
        (120, "ptx", (8, 4), r"ptx_version is 8\.4; kernels for sm_120 need 8\.7 or later"),
        (90, "ptx", (7, 8), r"ptx_version is 7\.8; kernels for sm_90 need 8\.0 or later"),
    ],
)
def test_what_cannot_be_compiled_is_refused_first(
    tmp_path: Path, sm: int, code: str, version: tuple[int, int] | None, words: str
) -> None:
    with pytest.raises(BuildError, match=words):
        compile_kernels([SMALL], sm, code=code, ptx_version=version, cache=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sm", [sm for sm in PTX_SINCE if sm < FP8_SINCE])
def test_an_fp8_cache_is_refused_below_8_9(sm: int) -> None:
    with pytest.raises(ValueError, match=r"kv_dtype is 'fp8' on compute capability 8\.\d, .* 8\.9"):
        attention_specs(replace(SHAPE, kv_dtype="fp8"), sm, pieces=True)


def test_what_triton_refuses_is_said(tmp_path: Path) -> None:
    wrong = replace(SMALL, constants={**SMALL.constants, "PIECES": 3})
    with pytest.raises(BuildError, match=r"combine_pieces_fp16_fp16_1 for sm_89: Triton refuses"):
        compile_kernels([wrong], 89, code="cubin", cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_the_assembler_refuses_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Triton prints the whole kernel, which would be in the middle of what `--json` prints."""
    with pytest.raises(
        BuildError,
        match=r"Triton refuses it: Unsupported .version 9\.9; current version is '8\.\d'$",
    ):
        compile_kernels([SMALL], 89, code="ptx", ptx_version=(9, 9), cache=tmp_path)
    assert capfd.readouterr().out == ""


def test_a_compiler_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dying_kernel.py").write_text("import os\nos._exit(1)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BuildError, match="compiled kernels for sm_89 ended without a result"):
        compile_kernels(
            [replace(SMALL, module="dying_kernel")], 89, code="cubin", cache=tmp_path / "cache"
        )


def test_settings_of_triton_change_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the user's shell sets for other work is not in the name of a result."""
    for name, value in (
        ("TRITON_OVERRIDE_ARCH", "sm90"),
        ("TRITON_DISABLE_LINE_INFO", "0"),
        ("DISABLE_LLVM_OPT", "1"),
        ("PTXAS_OPTIONS", "--no-such-option"),
    ):
        monkeypatch.setenv(name, value)
    mine = compile_kernels([SMALL], 80, code="cubin", cache=tmp_path)
    monkeypatch.undo()
    assert mine == compile_kernels([SMALL], 80, code="cubin", cache=cache)


def test_outputs_need_no_alignment(cache: Path) -> None:
    """A vocabulary of 128258 has rows at any address: nothing is stored several at once."""
    for kernel, code in compile_kernels(
        int4_specs("fp16"), 89, code="ptx", ptx_version=(8, 4), cache=cache
    ):
        stores = re.findall(r"st\.global\S*", code.decode())
        assert stores and set(stores) == {"st.global.b16"}, kernel.file


def test_arguments_in_another_order_are_refused(tmp_path: Path) -> None:
    arguments = dict(reversed(list(SMALL.arguments.items())))
    with pytest.raises(BuildError, match="combine_pieces takes"):
        compile_kernels([replace(SMALL, arguments=arguments)], 89, code="cubin", cache=tmp_path)


@pytest.mark.parametrize("sm", PTX_SINCE)
def test_every_gpu_has_every_tile(sm: int) -> None:
    tiles = load_tiles(sm)
    for use in USES:
        for size in HEAD_SIZES:
            for kind in ("fp16", "bf16", "int8", *(("fp8",) if sm >= FP8_SINCE else ())):
                tile = tiles.tile(use, size, kind)
                assert tile.block_m >= 16, "a group of 8 fits"
                assert use == "prefill" or tile.block_m == 16
    kinds = 3 if sm >= FP8_SINCE else 2
    wide = [tiles.tile(WIDE, size, "int8") for size in WIDE_HEAD_SIZES]
    assert all(tile.block_m >= 64 for tile in wide)
    count = len(USES) * len(HEAD_SIZES) + len(WIDE_HEAD_SIZES)
    assert len(tiles.table) == count * kinds, "and no more"


def test_other_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sm is 75; .*without its matrix units"):
        load_tiles(75)
    tiles = load_tiles(80)
    with pytest.raises(ValueError, match="use is 'train'"):
        tiles.tile("train", 64, "fp16")
    with pytest.raises(ValueError, match=r"head_dim is 32; it must be one of \(64, 128\)"):
        tiles.tile(WIDE, 32, "fp16")
    with pytest.raises(ValueError, match="head_dim is 96"):
        tiles.tile("decode", 96, "fp16")
    with pytest.raises(ValueError, match="kv_dtype is 'int4'"):
        tiles.tile("decode", 64, "int4")


PTX = """\
.version 8.4
.target sm_89
.visible .entry kernel(
\t.param .u64 .ptr .global .align 1 kernel_param_0,
\t.param .u32 kernel_param_1,
\t.param .u64 .ptr .global .align 1 kernel_param_2,
\t.param .u64 .ptr .global .align 1 kernel_param_3
)
{
\tld.param.u64 %rd1, [kernel_param_0];
\tret;
}
"""


def test_hidden_arguments_go() -> None:
    stripped = strip_hidden_arguments(PTX, 2)
    assert count_arguments(PTX) == 4 and count_arguments(stripped) == 2
    assert "kernel_param_2" not in stripped
    assert stripped.split("{", 1)[1] == PTX.split("{", 1)[1], "the body stays"


def test_a_hidden_argument_that_is_read_stays_an_error() -> None:
    used = PTX.replace("[kernel_param_0]", "[kernel_param_3]")
    with pytest.raises(ValueError, match="reads the hidden argument kernel_param_3"):
        strip_hidden_arguments(used, 2)


def test_arguments_that_are_not_there_are_an_error() -> None:
    with pytest.raises(ValueError, match="has 4 arguments, its source 5"):
        strip_hidden_arguments(PTX, 5)
    with pytest.raises(ValueError, match=r"no \.entry"):
        strip_hidden_arguments(".version 8.4", 1)


def test_the_assembler_says_what_is_wrong() -> None:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with pytest.raises(ValueError, match="ptxas refuses the kernel"):
        assemble(PTX.replace("ret;", "leave;"), tools, 89)
    with pytest.raises(ValueError, match="names no target"):
        assemble(".version 8.4", tools, 89)


def test_a_spill_would_be_seen(tmp_path: Path) -> None:
    """A tile that is too large for its warps: the figure that every other test wants to be 0."""
    shape = replace(SHAPE, head_dim=128, kv_dtype="fp16")
    tile = replace(load_tiles(80).tile("prefill", 128, "fp16"), block_m=128, warps=4)
    spec = attention_spec(shape, tile, 1, pieces=False)
    ((kernel, _),) = compile_kernels([spec], 80, code="cubin", cache=tmp_path)
    assert kernel.spill_bytes > 0


@pytest.mark.slow
@pytest.mark.parametrize("sm", PTX_SINCE)
def test_the_oldest_ptx_says_every_kernel(sm: int, tmp_path: Path) -> None:
    wanted: list[KernelSpec] = []
    for dtype in ("fp16", "bf16"):
        for kind in (dtype, "int8", *(("fp8",) if sm >= FP8_SINCE else ())):
            wanted += attention_specs(AttentionShape(8, 4, 64, dtype, kind), sm, pieces=True)
        wanted += int4_specs(dtype)
    made = compile_kernels(wanted, sm, code="ptx", ptx_version=PTX_SINCE[sm], cache=tmp_path)
    assert {kernel.ptx_version for kernel, _ in made} == {"{}.{}".format(*PTX_SINCE[sm])}
