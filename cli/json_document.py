"""The document of an earlier measurement, read for a verb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgellama.cli.failure import CliError


def read_document(path: Path, wanted: str) -> dict[str, Any]:
    """Return the JSON object of a file; raises CliError that asks for `wanted`."""
    if not path.is_file():
        raise CliError(f"{path} does not exist; give {wanted}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CliError(f"{path} is not JSON ({error}); give {wanted}") from None
    if not isinstance(document, dict):
        raise CliError(f"{path} is a JSON {type(document).__name__}; an object is needed")
    return document
