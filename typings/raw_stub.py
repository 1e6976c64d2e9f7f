"""What pybind11-stubgen makes of a module: signatures and docstrings, not yet valid Python."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import pybind11_stubgen
from pybind11_stubgen.parser.mixins.parse import ExtractSignaturesFromPybind11Docstrings

# Types that were bound after their first use stand under their C++ name in a signature.
_CPP = re.compile(r"(?:nvinfer1|nvonnxparser)::(?:v_\d+_\d+::)?(\w+)(?:\s*[&*])?")
_ACCESSOR = re.compile(r"detail::accessor<[^>]*>+")  # the return type of get_plugin_registry()
_RENAMED = {
    "IBuilder": "Builder",
    "IRuntime": "Runtime",
    "IRefitter": "Refitter",
    "IParser": "OnnxParser",
    "IParserError": "ParserError",
    "IParserRefitter": "OnnxParserRefitter",
}


def _translate_cpp_names(module: str) -> None:
    """Make stubgen read C++ names as the classes of the module."""
    read = ExtractSignaturesFromPybind11Docstrings.parse_annotation_str

    def python_name(found: re.Match[str]) -> str:
        return f"{module}.{_RENAMED.get(found[1], found[1])}"

    def translated(self: ExtractSignaturesFromPybind11Docstrings, text: str) -> object:
        text = _ACCESSOR.sub(f"{module}.IPluginRegistry", text)
        return read(self, _CPP.sub(python_name, text))

    ExtractSignaturesFromPybind11Docstrings.parse_annotation_str = translated


def raw_stub(module: str) -> str:
    """Run stubgen on an importable module of bindings, `package.module`."""
    _translate_cpp_names(module)
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["pybind11-stubgen", module, "--output-dir", folder]
        pybind11_stubgen.main()
        path = Path(folder, *module.split(".")).with_suffix(".pyi")
        return path.read_text(encoding="utf-8")
