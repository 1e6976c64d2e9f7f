"""A small random Llama, and the engine that `edgellama build` makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgellama.cli.__main__ import main


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """Two layers, a byte a token, a chat template; in the format of the hub."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the JSON of the build: fp32, 4 slots of 96 tokens."""
    out = tmp_path_factory.mktemp("engines") / "small"
    options = ["--precision", "fp32", "--slots", "4", "--capacity", "96", "--json"]
    arguments = ["build", "cpu-tiny", "--model", str(checkpoint), "--out", str(out), *options]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="session")
def engine(built: dict[str, Any]) -> str:
    """The engine directory."""
    return str(built["engine"])
