"""Compile one kernel with Triton: the part that runs in a process of its own.

Triton reads its settings when it is imported, and its interpreter, once chosen, cannot compile.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

from edgellama.optimize.kernels.assemble import assemble
from edgellama.optimize.kernels.hidden_arguments import count_arguments, strip_hidden_arguments
from edgellama.optimize.kernels.kernel_files import CompiledKernel
from edgellama.optimize.kernels.kernel_spec import KernelSpec

_THREADS_A_WARP = 32
# What changes Triton's result and does not begin with TRITON_.
_SETTINGS = (
    "DISABLE_LLVM_OPT",
    "DISABLE_PTXAS_OPT",
    "LLVM_EXTRACT_DI_LOCAL_VARIABLES",
    "PTXAS_OPTIONS",
    "USE_IR_LOC",
)
# Await the assembler that this process has started, then remove the folder; the last of the
# workers to come here finds nobody else who writes.
_LAST_WORDS = """
import os, shutil, sys
try:
    while True:
        os.wait()
except ChildProcessError:
    shutil.rmtree(sys.argv[1], ignore_errors=True)
sys.exit(1)
"""


@dataclass(frozen=True)
class Order:
    """What is compiled: a spec for a compute capability, as `cubin` or `ptx`; `ptx_version` 84 is
    PTX 8.4, None the newest that Triton's assembler knows."""

    spec: KernelSpec
    sm: int
    code: str
    ptx_version: int | None


def prepare(scratch: str) -> None:
    """Set what Triton reads when it is imported: the first thing in a process.

    All that the process writes lies in the folder `scratch`, whose end is the orderer's business;
    where that is killed, the process follows it and removes the folder.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that ordered it decides
    Thread(target=_follow_parent, args=(scratch,), daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Triton prints whole kernels there
    tempfile.tempdir = scratch
    for name in [*os.environ]:
        if name.startswith("TRITON_") or name in _SETTINGS:
            del os.environ[name]
    os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"  # the default changes between versions
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"


def _follow_parent(scratch: str) -> None:
    """End this process when the one that ordered it has ended without a word."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    # Another program in this process's place stops the thread that still compiles and writes.
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", _LAST_WORDS, scratch])


def compile_order(order: Order) -> tuple[CompiledKernel, bytes]:
    """Compile, strip the hidden arguments and assemble; raises ValueError where that fails."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        return _compile(order)


def _reason(error: Exception) -> str:
    """Return the one line of Triton's report that says what is wrong."""
    text = str(error).strip()
    assembler = re.search(r"; (?:error|fatal)\s*: (.*)", text)
    return assembler[1] if assembler else (text.splitlines() or [type(error).__name__])[-1]


def _compile(order: Order) -> tuple[CompiledKernel, bytes]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    spec = order.spec
    function: Any = getattr(import_module(spec.module), spec.function)
    names = function.arg_names
    if [name for name in names if name not in spec.constants] != list(spec.arguments):
        raise ValueError(f"{spec.function} takes {names}, the spec has {list(spec.arguments)}")
    source = ASTSource(
        fn=function,
        signature={name: spec.arguments.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in spec.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in spec.aligned},
    )
    options: dict[str, Any] = {"num_warps": spec.warps, "num_stages": spec.stages}
    if order.ptx_version is not None:
        options["ptx_version"] = order.ptx_version
    target = GPUTarget("cuda", order.sm, _THREADS_A_WARP)
    try:
        made = triton.compile(source, target=target, options=options)
    except Exception as error:  # Triton's errors share no base class
        why = _reason(error)
        raise ValueError(f"{spec.name} for sm_{order.sm}: Triton refuses it: {why}") from None
    meta = made.metadata
    scratch = [getattr(meta, f"{kind}_scratch_size", 0) for kind in ("global", "profile")]
    if any(scratch):
        raise ValueError(f"{spec.name} needs {scratch} bytes of scratch memory, which nobody gives")
    ptx = strip_hidden_arguments(made.asm["ptx"], len(spec.arguments))
    if count_arguments(ptx) != len(spec.arguments):
        raise ValueError(f"{spec.name} has {count_arguments(ptx)} arguments after stripping")
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    assembled = assemble(ptx, tools, order.sm)
    code = assembled.cubin if order.code == "cubin" else ptx.encode("ascii")
    version = ptx.split(".version", 1)[1].split()[0]
    kernel = CompiledKernel(
        op=spec.op,
        tactic=spec.tactic,
        kernel=spec.function,
        entry=meta.name,
        sm=order.sm,
        code=order.code,
        file=f"{spec.name}_sm{order.sm}.{order.code}",
        sha256=sha256(code).hexdigest(),
        warps=meta.num_warps,
        shared_bytes=meta.shared,
        registers=assembled.registers,
        spill_bytes=assembled.spill_bytes,
        code_bytes=len(code),
        ptx_version=version,
        dtype=spec.dtype,
        kv_dtype=spec.kv_dtype,
        constants=dict(spec.constants),
    )
    return kernel, code
