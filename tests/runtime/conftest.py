"""The real Llama 3 tokenizer, read once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgellama.runtime.chat import ChatTemplate
from edgellama.runtime.request import Sampling
from edgellama.runtime.text import GenerationConfig, TextCodec

sys.path.insert(0, str(Path(__file__).parent))  # the doubles beside the tests


@pytest.fixture(scope="session")
def llama3_tokenizer(shared_data: Path) -> Tokenizer:
    return Tokenizer.from_file(str(shared_data / "llama3-tokenizer" / "tokenizer.json"))


@pytest.fixture(scope="session")
def llama3(shared_data: Path, llama3_tokenizer: Tokenizer) -> TextCodec:
    raw = json.loads((shared_data / "llama3-tokenizer" / "tokenizer_config.json").read_text())
    names = {"bos_token": raw["bos_token"], "eos_token": raw["eos_token"]}
    generation = GenerationConfig(128_000, (128_009,), Sampling(), names)
    return TextCodec(llama3_tokenizer, generation, ChatTemplate(raw["chat_template"], names))
