"""The text files of an engine of `small_llama`: a tokenizer of one letter a token."""

from __future__ import annotations

import json
from pathlib import Path

from small_llama import VOCAB
from tokenizers import Tokenizer, decoders, models, pre_tokenizers


def letter(token: int) -> str:
    return chr(ord("!") + token)


def write_letter_files(folder: Path) -> None:
    """Write tokenizer.json and generation.json."""
    vocabulary = {letter(token): token for token in range(VOCAB)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    generation = {
        "bos_token_id": None,
        "stop_token_ids": [],
        "sampling": {"temperature": 0.0},
        "special_tokens": {},
    }
    (folder / "generation.json").write_text(json.dumps(generation), encoding="utf-8")
