"""The files of an engine directory that hold its text settings."""

from __future__ import annotations

import json
from pathlib import Path

from edgellama.export.generation import read_generation, tokenizer_folder
from edgellama.optimize.pipeline import BuildError
from edgellama.runtime.text import GENERATION_NAME, TEMPLATE_NAME, TOKENIZER_NAME


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
