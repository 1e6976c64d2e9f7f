"""The files of an engine directory: which there are, and those that hold its text settings."""

from __future__ import annotations

import json
from pathlib import Path

from edgellama.export.generation import read_generation, tokenizer_folder
from edgellama.export.stage import foreign_name
from edgellama.export.to_onnx import DATA_NAME, GRAPH_NAME
from edgellama.optimize.pipeline import BuildError
from edgellama.runtime.manifest import MANIFEST_NAME
from edgellama.runtime.text import GENERATION_NAME, TEMPLATE_NAME, TOKENIZER_NAME

ENGINE_FILES = (
    MANIFEST_NAME,
    GRAPH_NAME,
    DATA_NAME,
    TOKENIZER_NAME,
    GENERATION_NAME,
    TEMPLATE_NAME,
)


def require_replaceable(out: Path) -> None:
    """Refuse to replace a folder that is not an engine, or that holds other things too."""
    if out.exists() and not out.is_dir():
        raise BuildError(f"{out} is a file; an engine is a folder: choose another --out")
    name = foreign_name(out, ENGINE_FILES)
    if name is not None:
        raise BuildError(
            f"{out} exists and is not an engine: it holds {name}, which no build writes and which "
            "would be lost; choose another --out or remove it"
        )
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST_NAME).is_file():
        raise BuildError(
            f"{out} exists and is not an engine (no {MANIFEST_NAME}); choose another --out or "
            "remove it"
        )


def write_text_files(folder: Path, staging: Path, adapter: Path | None = None) -> None:
    """Copy the tokenizer and write the chat template and generation settings.

    Those of an adapter go before the checkpoint's, where it has its own.
    """
    tokenizer = tokenizer_folder(folder, adapter) / TOKENIZER_NAME
    if not tokenizer.is_file():
        raise BuildError(
            f"{folder}: no {TOKENIZER_NAME}; save the fast tokenizer beside the weights"
        )
    (staging / TOKENIZER_NAME).write_bytes(tokenizer.read_bytes())
    generation, template = read_generation(folder, adapter)
    text = json.dumps(generation, indent=2, ensure_ascii=False) + "\n"
    (staging / GENERATION_NAME).write_text(text, encoding="utf-8")
    if template is not None:
        (staging / TEMPLATE_NAME).write_text(template, encoding="utf-8")
