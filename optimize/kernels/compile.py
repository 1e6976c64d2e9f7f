"""Compile kernels ahead of time, for any GPU, on a machine that has none."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from edgellama.optimize.error import BuildError
from edgellama.optimize.kernels.compile_worker import Order, compile_order, prepare
from edgellama.optimize.kernels.kernel_files import CompiledKernel, read_kernels, write_kernels
from edgellama.optimize.kernels.kernel_spec import KernelSpec
from edgellama.profiles.kernels import CODES, PTX_SINCE
from edgellama.runtime.manifest import EngineError

Progress = Callable[[str, int, int], None]
_STEPS = ("compile_worker", "hidden_arguments", "assemble")
_WORKERS = 2  # a compilation takes a second and a few hundred megabytes


def default_cache() -> Path:
    """Return the folder of the cache: `$XDG_CACHE_HOME` or `~/.cache`, then edgellama/kernels."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgellama" / "kernels"


def compile_kernels(
    specs: Sequence[KernelSpec],
    sm: int,
    *,
    code: str,
    ptx_version: tuple[int, int] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[tuple[CompiledKernel, bytes], ...]:
    """Compile kernels for a compute capability; returns each with its code, in the same order.

    `code` is "cubin" or "ptx", `ptx_version` (8, 4) the newest PTX that may be used. `cache` is the
    folder of earlier results, None the user's. Raises BuildError before anything is compiled for
    what cannot be, and for what Triton or the assembler refuses.
    """
    orders = [_order(spec, sm, code, ptx_version) for spec in specs]
    compiler = compiler_version()
    folder = cache if cache is not None else default_cache()
    folder.mkdir(parents=True, exist_ok=True)
    sources = _sources()
    paths = [folder / f"{_key(order, compiler, sources)}.zip" for order in orders]
    found = [_cached(path) for path in paths]
    missing = [index for index, each in enumerate(found) if each is None]
    done = len(found) - len(missing)
    if progress is not None:
        progress("compile kernels", done, len(found))
    with closing(_compiled(orders, missing, folder)) as made:
        for index, kernel, content, scratch in made:
            # From a file in the scratch folder: whatever happens, only whole results are kept.
            write_kernels(scratch / paths[index].name, [(kernel, content)])
            os.replace(scratch / paths[index].name, paths[index])
            found[index] = kernel, content
            done += 1
            if progress is not None:
                progress("compile kernels", done, len(found))
    return tuple(each for each in found if each is not None)


def result_keys(specs: Sequence[KernelSpec], sm: int, *, code: str) -> list[str]:
    """Return for each spec what names its result: a digest of all that it depends on."""
    compiler, sources = compiler_version(), _sources()
    return [_key(_order(spec, sm, code, None), compiler, sources) for spec in specs]


def _compiled(
    orders: Sequence[Order], missing: Sequence[int], cache: Path
) -> Generator[tuple[int, CompiledKernel, bytes, Path], None, None]:
    """Yield the kernels of the orders at the places `missing`, each with its place.

    Behind them comes a folder within `cache` for scratch, which ends with the compilation, however
    that ends.
    """
    if not missing:
        return
    with TemporaryDirectory(prefix="scratch-", dir=cache) as scratch:
        pool = ProcessPoolExecutor(
            min(_WORKERS, len(missing)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=prepare,
            initargs=(scratch,),
        )
        try:
            made = pool.map(compile_order, [orders[index] for index in missing])
            for index, (kernel, content) in zip(missing, made, strict=True):
                yield index, kernel, content, Path(scratch)
        except BrokenProcessPool:
            raise BuildError(
                f"a process that compiled kernels for sm_{orders[0].sm} ended without a result: "
                "Triton gave up, with its reason on standard error, or memory ran out"
            ) from None
        except ValueError as error:
            raise BuildError(str(error)) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _order(spec: KernelSpec, sm: int, code: str, ptx_version: tuple[int, int] | None) -> Order:
    if code not in CODES:
        raise BuildError(f"code is {code!r}; it must be one of {', '.join(CODES)}")
    since = PTX_SINCE.get(sm)
    if since is None:
        raise BuildError(f"sm is {sm}; kernels are compiled for {', '.join(map(str, PTX_SINCE))}")
    if ptx_version is not None and ptx_version < since:
        raise BuildError(
            f"ptx_version is {ptx_version[0]}.{ptx_version[1]}; kernels for sm_{sm} need "
            f"{since[0]}.{since[1]} or later"
        )
    number = None if ptx_version is None else 10 * ptx_version[0] + ptx_version[1]
    return Order(spec, sm, code, number)


def compiler_version() -> str:
    """Return Triton's version; raises BuildError where it is not installed."""
    try:
        return version("triton")
    except PackageNotFoundError:
        raise BuildError(
            "Triton, which compiles the kernels of target trt-plugin, is not installed; install "
            "'edgellama[kernels]' on Linux"
        ) from None


def _key(order: Order, compiler: str, sources: bytes) -> str:
    """Return the name of a result: everything that it depends on."""
    return sha256(compiler.encode() + json.dumps(asdict(order)).encode() + sources).hexdigest()


def _sources() -> bytes:
    """Return a digest of the kernels and of what compiles them."""
    found = sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_bytes()
        if b"@triton.jit" in text or path.stem in _STEPS:
            found.update(path.name.encode() + b"\0" + text)
    return found.digest()


def _cached(path: Path) -> tuple[CompiledKernel, bytes] | None:
    """Return an earlier result; None where there is none, or where it is damaged."""
    if not path.is_file():
        return None
    try:
        (found,) = read_kernels(path)
    except (EngineError, ValueError):
        return None
    return found
