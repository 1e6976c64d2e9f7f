"""Where the models of the other systems lie: each is made once, whole or not at all."""

from __future__ import annotations

import json
import os
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgellama.benchmark.peer_environment import Packages, Report, peer_python, run_quoted
from edgellama.benchmark.peer_packages import LLAMA_CPP, LLAMA_CPP_SOURCE
from edgellama.export.stage import staged_directory

# Of the random weights: they are made once, so the seed of a measurement is not theirs.
WEIGHTS_SEED = 2026
_STAMP = ".recipe"
_VENDORED = "vendor/llama.cpp/"
_CONVERTER = ("convert_hf_to_gguf.py", "gguf-py/", "conversion/")
Make = Callable[[Path], None]


@dataclass(frozen=True)
class PeerFolder:
    """A size of random weights under `cache`, and what is made of them; `report` shows progress."""

    size: str
    cache: Path
    report: Report

    @property
    def path(self) -> Path:
        """The folder of everything of this size."""
        return self.cache / self.size

    @property
    def checkpoint(self) -> Path:
        """The checkpoint, which `write_checkpoint` makes."""
        return self.path / "checkpoint"

    @property
    def vocabulary(self) -> int:
        """The number of token ids that the checkpoint has."""
        text = (self.checkpoint / "config.json").read_text(encoding="utf-8")
        return int(json.loads(text)["vocab_size"])

    def write_checkpoint(self) -> None:
        """Write random weights, unless they are there. Raises PeerError."""
        program = "edgellama.examples.random_llama"
        options = ["--size", self.size, "--seed", str(WEIGHTS_SEED)]

        def make(out: Path) -> None:
            command = [sys.executable, "-m", program, *options, "--out", str(out)]
            run_quoted("write checkpoint", command, os.environ)

        self._made("write checkpoint", self.checkpoint, repr((program, options)), make)

    def convert(self, name: str, packages: Packages, command: Callable[[Path], list[str]]) -> Path:
        """Return the folder `name` that `command(out)` fills, with `{python}` of the packages.

        It is made anew when the command, the packages or the weights are others. Raises PeerError.
        """
        python = peer_python(packages, self.cache, self.report)
        out = self.path / name

        def make(folder: Path) -> None:
            filled = [part.replace("{python}", python) for part in command(folder)]
            run_quoted(f"convert {name}", filled, os.environ)

        recipe = repr((command(out), packages, WEIGHTS_SEED))
        self._made(f"convert {name}", out, recipe, make)
        return out

    def llama_cpp_sources(self) -> Path:
        """Return the folder of llama.cpp's converter, out of its binding's source distribution."""
        out = self.cache / "llama.cpp-converter"
        python = peer_python(LLAMA_CPP, self.cache, self.report)
        package = LLAMA_CPP_SOURCE.partition("==")[0]

        def make(folder: Path) -> None:
            pip = [python, "-m", "pip", "download", "-q", "--no-deps", f"--no-binary={package}"]
            run_quoted(
                "download llama.cpp", [*pip, "-d", str(folder), LLAMA_CPP_SOURCE], os.environ
            )
            (archive,) = folder.glob("*.tar.gz")
            _extract(archive, folder)
            archive.unlink()

        self._made("download llama.cpp", out, LLAMA_CPP_SOURCE, make)
        return out

    def _made(self, stage: str, out: Path, recipe: str, make: Make) -> None:
        stamp = out / _STAMP
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == recipe:
            return
        self.report(stage, 0, 1)
        with staged_directory(out) as folder:
            make(folder)
            (folder / _STAMP).write_text(recipe, encoding="utf-8")
        self.report(stage, 1, 1)


def _extract(archive: Path, out: Path) -> None:
    """Write the converter's files of a source distribution to `out`."""
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            _, found, name = member.name.partition(_VENDORED)
            if found and name.startswith(_CONVERTER):
                member.name = name
                packed.extract(member, out, filter="data")
