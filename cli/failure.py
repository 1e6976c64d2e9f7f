"""Which exceptions are the user's to read, and in which words.

An exception class that this project defines is written for the user; so are the operating system's
errors about files and a missing optional package. Everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Import name -> the extra of pyproject.toml that installs it.
EXTRA_OF = {
    "huggingface_hub": "compile",
    "matplotlib": "bench",
    "ml_dtypes": "compile",
    "modelopt": "calibrate",
    "onnx": "compile",
    "onnx_ir": "compile",
    "onnxscript": "compile",
    "optimum": "compile",
    "requests": "calibrate",
    "safetensors": "compile",
    "torch": "compile",
    "transformers": "compile",
    "onnxruntime": "cpu",
}


@dataclass(frozen=True)
class Failure:
    """One error for the user; `kind` is the class name, `field` the input it is about, if known."""

    kind: str
    message: str
    field: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the form under the key `error` of the JSON on standard error."""
        raw = {"kind": self.kind, "message": self.message}
        return raw if self.field is None else {**raw, "field": self.field}


class CliError(ValueError):
    """An error of the command line itself, written for the user."""


def describe(error: Exception) -> Failure | None:
    """Return what the user should read, or None when the exception is not meant for the user."""
    kind = type(error).__name__
    if type(error).__module__.startswith("edgellama."):
        field = getattr(error, "field", None)
        return Failure(kind, _one_line(error), field if isinstance(field, str) else None)
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package in EXTRA_OF:
            extra = EXTRA_OF[package]
            hint = f"package {package} is not installed; run: pip install 'edgellama[{extra}]'"
            return Failure(kind, hint)
        return None
    # A closed pipe is click's to handle: the reader has left, nobody wants a message.
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        where = f"{error.filename}: " if error.filename else ""
        return Failure(kind, f"{where}{error.strerror or error}")
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
