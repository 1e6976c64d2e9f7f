"""The models that `edgellama evaluate` takes: engines, and folders of `edgellama export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgellama.cli.engine import engine_directory

if TYPE_CHECKING:
    from edgellama.benchmark.language_model import LanguageModel

MANIFEST_NAME = "engine.json"
PORTABLE_NAME = "model.onnx"


def is_portable(folder: Path) -> bool:
    """Whether a folder is an exported model: a graph without an engine's manifest."""
    return (folder / PORTABLE_NAME).is_file() and not (folder / MANIFEST_NAME).is_file()


def load_model(name: str, threads: int | None) -> LanguageModel:
    """Load an engine, by directory or profile, or an exported portable folder.

    Raises CliError, EngineError or BuildError. Only a portable model needs the compiler's packages.
    """
    folder = engine_directory(name)
    if is_portable(folder):
        from edgellama.optimize.portable_model import PortableModel

        return PortableModel.load(folder, threads=threads)
    from edgellama.benchmark.engine_model import EngineModel

    return EngineModel.load(folder, threads=threads)
