"""Write type stubs of TensorRT's Python bindings, without a GPU and without their libraries.

    python typings/generate.py FOLDER [MODULE ...]

needs NVIDIA's wheels of bindings and pybind11-stubgen beside it: see `make trt-stubs`.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from importlib import import_module
from pathlib import Path

MODULES = ("tensorrt", "tensorrt_rtx")
HEADER = """\
# Signatures of {name} {version}, made from its wheel of bindings by `make trt-stubs`; not edited.
# mypy: disable-error-code="assignment, override, overload-overlap, overload-cannot-match"
# ruff: noqa
"""


def write_stub(name: str, folder: Path) -> None:
    """Write `folder/NAME/__init__.pyi`; imports the bindings, so once a process."""
    from clean_stub import Cleaner
    from null_libraries import write_null_libraries
    from raw_stub import raw_stub

    package, site = f"{name}_bindings", Path(sysconfig.get_paths()["purelib"])
    with tempfile.TemporaryDirectory() as libraries:
        write_null_libraries(site / package / f"{name}.so", Path(libraries) / f"{name}_libs")
        sys.path.insert(0, libraries)
        version = import_module(package).__version__
        text = Cleaner(f"{package}.{name}").clean(raw_stub(f"{package}.{name}"))
    target = folder / name / "__init__.pyi"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(HEADER.format(name=name, version=version) + text, encoding="utf-8")
    print(f"{target}: {len(text.splitlines())} lines, {name} {version}")


def main() -> None:
    """Write the stubs named on the command line: one in this process, several each in its own."""
    folder, *names = sys.argv[1:]
    if len(names) == 1:
        write_stub(names[0], Path(folder))
        return
    for name in names or MODULES:
        subprocess.run([sys.executable, __file__, folder, name], check=True)


if __name__ == "__main__":
    main()
