"""What TensorRT says while it builds, kept and never printed."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellama.optimize.tensorrt.library import Library, Log, Severity

MAX_WARNINGS = 50
# Part of an error of TensorRT's -> what it means here.
_ADVICE = (
    (
        "HW-specific datatypes",
        "this GPU cannot compute with a number format of the graph: choose another "
        "precision.weights (int4 needs compute capability 8.0, fp8 8.9)",
    ),
    ("Non-zero zero point", "weights must be quantised symmetrically, without zero points"),
    ("Plugin not found", "TensorRT has no such operator: this graph is another target's"),
    ("Network must have at least one output", "the graph has no outputs"),
    (
        "not supported by a dedicated kernel",
        "TensorRT has no fused attention of this head size and type: use build.target 'trt-plain'",
    ),
    (
        "MyelinCheckException",
        "TensorRT's compiler gave up; one cause is a machine without a GPU when the engine is "
        "refittable or stripped",
    ),
    ("OutOfMemory", "the build ran out of memory: close other programs, or lower limits"),
)


class Messages:
    """Errors and warnings in the order in which they came, each once."""

    def __init__(self) -> None:
        self._errors: dict[str, None] = {}
        self._warnings: dict[str, None] = {}

    def error(self, text: str) -> None:
        """Keep an error."""
        self._errors[text] = None

    def warning(self, text: str) -> None:
        """Keep a warning, the first ones only."""
        if len(self._warnings) < MAX_WARNINGS:
            self._warnings[text] = None

    def clear(self) -> None:
        """Forget everything, before another build."""
        self._errors.clear()
        self._warnings.clear()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings, and errors that the build survived."""
        return (*self._errors, *self._warnings)[:MAX_WARNINGS]

    def explain(self, what: str) -> str:
        """Return what failed, with TensorRT's errors and what is known about them."""
        errors = list(self._errors) or ["TensorRT logged no error"]
        return explained(f"{what}: {'; '.join(errors)}")


def explained(text: str) -> str:
    """Add to an error of TensorRT's what it means here, where that is known."""
    found = [advice for part, advice in _ADVICE if part in text]
    return " => ".join([text, *found])


@cache
def logger_of(library: Library) -> tuple[Log, Messages]:
    """Return the one logger of a process, and what it has heard.

    TensorRT keeps the first logger that it is given, for the whole process.
    """
    messages = Messages()
    if not TYPE_CHECKING:
        Log = library.ILogger
    warning = library.ILogger.WARNING
    error = library.ILogger.ERROR

    class Logger(Log):
        """Called from any thread; an exception here would end the process."""

        def __init__(self) -> None:
            Log.__init__(self)

        def log(self, severity: Severity, msg: str) -> None:
            if severity <= error:
                messages.error(msg.strip())
            elif severity == warning:
                messages.warning(msg.strip())

    return Logger(), messages
