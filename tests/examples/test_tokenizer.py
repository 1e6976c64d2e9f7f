"""The committed tokenizer keeps every text and speaks the Llama 3 chat format."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from edgellama.examples.tiny_llama import corpus, tokenizer
from edgellama.examples.tiny_llama.document import Document, Message
from edgellama.examples.tiny_llama.shape import VOCAB
from edgellama.examples.tiny_llama.train import FOLDER

CHAT = Document(
    messages=(
        Message("system", "You are a helpful assistant."),
        Message("user", "  What is 4 + 5? "),
        Message("assistant", "4 + 5 = 9."),
        Message("user", "Thanks!"),
    )
)


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """The committed tokenizer."""
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.mark.parametrize(
    "text",
    [
        "The capital of France is Paris.",
        "  two  spaces\tand a tab\n\n\nand lines  ",
        "Grüße, 東京 and 🦙!",
        "12345 - 678 = 11667",
        "don't, I'LL, we've",
    ],
)
def test_a_text_comes_back(words: Tokenizer, text: str) -> None:
    ids = words.encode(text, add_special_tokens=False).ids
    assert words.decode(ids, skip_special_tokens=False) == text


def test_the_vocabulary_is_small_and_full(words: Tokenizer) -> None:
    assert words.get_vocab_size() == VOCAB <= 4096
    assert sorted(words.get_vocab().values()) == list(range(VOCAB))


def test_all_special_tokens_of_llama_3_are_single_tokens(words: Tokenizer) -> None:
    assert len(set(tokenizer.SPECIALS)) == 256
    for place, name in enumerate(tokenizer.SPECIALS):
        ids = words.encode(name, add_special_tokens=False).ids
        assert ids == [VOCAB - 256 + place]


def test_digits_are_single_tokens(words: Tokenizer) -> None:
    assert words.encode("2026", add_special_tokens=False).tokens == ["2", "0", "2", "6"]


def test_encoding_starts_with_begin_of_text(words: Tokenizer) -> None:
    assert words.encode("Hello").tokens[0] == "<|begin_of_text|>"


def test_transformers_renders_what_training_renders() -> None:
    loaded: Any = AutoTokenizer.from_pretrained(FOLDER)
    messages = [{"role": m.role, "content": m.content} for m in CHAT.messages]
    text = loaded.apply_chat_template(messages, tokenize=False)
    assert text == tokenizer.render(CHAT)
    asked = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == text + "<|start_header_id|>assistant<|end_header_id|>\n\n"


def test_the_template_works_in_a_sandbox() -> None:
    settings = json.loads((FOLDER / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = ImmutableSandboxedEnvironment().from_string(settings["chat_template"])
    messages = [{"role": m.role, "content": m.content} for m in CHAT.messages]
    text = template.render(messages=messages, bos_token=settings["bos_token"])
    assert text == tokenizer.render(CHAT)


def test_the_tokenizer_is_what_the_corpus_gives(words: Tokenizer) -> None:
    documents = list(corpus.documents(tokenizer.DOCUMENTS))
    assert tokenizer.train(documents).to_str() == words.to_str()
