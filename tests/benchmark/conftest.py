"""A small engine that `edgellama build` made, for what measures engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgellama.cli.__main__ import main


@pytest.fixture(scope="session")
def small_engine(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return an engine directory: two layers, fp32, untied tables, 4 slots of 96 tokens."""
    out = tmp_path_factory.mktemp("engines") / "small"
    checkpoint = make_checkpoint(tie_word_embeddings=False)
    options = ["--precision", "fp32", "--slots", "4", "--capacity", "96", "--json"]
    arguments = ["build", "cpu-tiny", "--model", str(checkpoint), "--out", str(out), *options]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out
