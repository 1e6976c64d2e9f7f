"""The click command class of a verb whose document goes to a file: `--json FILE`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgellama.cli.failure import CliError
from edgellama.cli.verb import Verb, print_json

STANDARD_OUTPUT = Path("-")


class FileVerb(Verb):
    """A command with the option `--json FILE`, passed to the function as `as_json`, None without.

    What it measured took long, so people read the table while the document goes to the file.
    """

    def json_option(self) -> click.Option:
        """Return the option."""
        text = "Write one JSON document to this file; - is standard output, without the table."
        path = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
        return click.Option(["--json", self.JSON], type=path, metavar="FILE", help=text)


def require_writable(file: Path | None) -> None:
    """Raise CliError where a document could not be written at the end: call it before the work."""
    if file is None or file == STANDARD_OUTPUT:
        return
    folder = file.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise CliError(f"--json is {file}, and {folder} is no folder to write to; make it first")


def write_json(document: Mapping[str, Any], file: Path) -> None:
    """Write the document whole or not at all; "-" is standard output."""
    if file == STANDARD_OUTPUT:
        print_json(document)
        return
    file = file.absolute()
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}-") as scratch:
        partial = Path(scratch) / file.name
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, file)
