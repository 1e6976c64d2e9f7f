"""The tiny model of the repository, its tokenizer, and tokens to calibrate on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from edgellama.calibration.documents import default_documents
from edgellama.calibration.samples import Samples, draw_samples
from edgellama.export.checkpoint import Checkpoint, open_checkpoint
from edgellama.export.resolve import resolve_model
from edgellama.optimize.engine_files import write_text_files
from edgellama.runtime.text import TextCodec


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small products lose more to starting threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny() -> Checkpoint:
    """The trained model of the repository: 4 layers of 256, grouped heads, a tied head."""
    return open_checkpoint(resolve_model("tiny"))


@pytest.fixture(scope="session")
def codec(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    """Its tokenizer and chat template."""
    folder = tmp_path_factory.mktemp("text")
    write_text_files(tiny.folder, folder)
    return TextCodec.load(folder)


@pytest.fixture(scope="session")
def samples(codec: TextCodec) -> Samples:
    """512 tokens of the built-in text in 4 sequences."""
    documents = default_documents()
    return draw_samples(documents, codec, source="built-in", tokens=512, length=128, seed=3)
