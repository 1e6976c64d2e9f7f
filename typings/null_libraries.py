"""Libraries of TensorRT without anything in them, enough to import the Python bindings."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

# The entry points that the bindings link to; each returns null here.
ENTRY_POINTS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_NEEDED = re.compile(rb"\0(lib(?:nv|tensorrt)\w+\.so\.\d+)(?=\0)")
# What the bindings import first, where it exists: load the libraries beside it.
_LOADER = """\
import ctypes, pathlib

for path in pathlib.Path(__file__).parent.glob("*.so.*"):
    ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
"""


def write_null_libraries(bindings: Path, package: Path) -> None:
    """Compile a library for each that the bindings need, in a package that loads them."""
    package.mkdir(parents=True)
    source = package / "null.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ENTRY_POINTS))
    for soname in sorted(set(_NEEDED.findall(bindings.read_bytes()))):
        name = soname.decode()
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(package / name)]
        subprocess.run([*command, str(source)], check=True)
    (package / "__init__.py").write_text(_LOADER)
