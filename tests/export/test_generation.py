"""The settings of a checkpoint as `generation.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from edgellama.export.error import ExportError
from edgellama.export.generation import read_generation, tokenizer_folder
from edgellama.runtime.text import GenerationConfig

TEMPLATE = "{{ messages }}"


def checkpoint(folder: Path, **files: Any) -> Path:
    """Write `NAME.json` for each keyword."""
    for name, raw in {"config": {}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(raw))
    return folder


def generation(folder: Path, **files: Any) -> dict[str, Any]:
    raw, _ = read_generation(checkpoint(folder, **files))
    GenerationConfig.from_json(raw)  # what is written can be read
    return raw


def test_generation_config_goes_before_config(tmp_path: Path) -> None:
    raw = generation(
        tmp_path,
        config={"bos_token_id": 7, "eos_token_id": 8},
        generation_config={"eos_token_id": [3, 9, 3]},
    )
    assert raw["bos_token_id"] == 7 and raw["stop_token_ids"] == [3, 9]


@pytest.mark.parametrize(("value", "expected"), [(5, [5]), ([5, 6], [5, 6]), (None, []), ([], [])])
def test_stop_ids_may_be_one_many_or_none(
    tmp_path: Path, value: object, expected: list[int]
) -> None:
    raw = generation(tmp_path, config={"eos_token_id": value})
    assert raw["stop_token_ids"] == expected and raw["bos_token_id"] is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"temperature": 0.0}),
        ({"do_sample": False, "temperature": 0.9, "top_p": 0.5}, {"temperature": 0.0}),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
            {"temperature": 0.6, "top_k": 50, "top_p": 0.9},
        ),
        (
            {"do_sample": True, "temperature": None, "top_k": None, "top_p": None, "min_p": 0.1},
            {"temperature": 1.0, "min_p": 0.1},
        ),
        ({"repetition_penalty": 1.1}, {"temperature": 0.0, "repetition_penalty": 1.1}),
        ({"do_sample": True, "top_k": 0, "repetition_penalty": 1.0}, {"temperature": 1.0}),
    ],
)
def test_sampling_has_the_defaults_of_transformers(
    tmp_path: Path, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert generation(tmp_path, generation_config=settings)["sampling"] == expected


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("generation_config", {"num_beams": 4}, "num_beams is 4"),
        ("generation_config", {"suppress_tokens": [1]}, "suppress_tokens"),
        ("generation_config", {"do_sample": True, "temperature": 0.0}, "do_sample to false"),
        ("generation_config", {"do_sample": "yes"}, "do_sample is 'yes'"),
        ("generation_config", {"do_sample": True, "top_k": 1.5}, r"top_k is 1\.5"),
        ("generation_config", {"eos_token_id": ["a"]}, "generation_config.json: eos_token_id"),
        ("config", {"eos_token_id": True}, "^config.json: eos_token_id"),
        ("config", {"bos_token_id": -1}, "bos_token_id is -1"),
        ("config", [], "config.json holds a list"),
        ("tokenizer_config", {"chat_template": 5}, "chat_template is not a text"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    tmp_path: Path, name: str, raw: object, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        read_generation(checkpoint(tmp_path, **{name: raw}))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"config\.json is missing"):
        read_generation(tmp_path)
    checkpoint(tmp_path)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ExportError, match=r"generation_config\.json is not JSON"):
        read_generation(tmp_path)


def test_special_tokens_are_texts_or_added_tokens(tmp_path: Path) -> None:
    raw = generation(
        tmp_path,
        special_tokens_map={"bos_token": "<old>", "unk_token": {"content": "<unk>"}},
        tokenizer_config={
            "bos_token": {"content": "<s>", "special": True},
            "eos_token": "</s>",
            "pad_token": None,
            "add_bos_token": True,
            "additional_special_tokens": ["<x>"],
        },
    )
    assert raw["special_tokens"] == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def test_the_chat_template_has_four_homes(tmp_path: Path) -> None:
    assert read_generation(checkpoint(tmp_path))[1] is None
    checkpoint(tmp_path, tokenizer_config={"chat_template": TEMPLATE})
    assert read_generation(tmp_path)[1] == TEMPLATE
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    checkpoint(tmp_path, tokenizer_config={"chat_template": named})
    assert read_generation(tmp_path)[1] == TEMPLATE
    checkpoint(tmp_path, tokenizer_config={"chat_template": named[:1]})
    with pytest.raises(ExportError, match="has tool_use and no default"):
        read_generation(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("from the file\n")
    assert read_generation(tmp_path)[1] == "from the file\n"


@pytest.mark.parametrize(
    ("config", "generation_config", "stops"),
    [
        # Meta's base models and instruct models, and Llama Guard.
        (
            {"bos_token_id": 128000, "eos_token_id": 128001},
            {
                "_from_model_config": True,
                "bos_token_id": 128000,
                "eos_token_id": 128001,
                "do_sample": True,
                "temperature": 0.6,
                "max_length": 4096,
                "top_p": 0.9,
                "transformers_version": "4.45.0.dev0",
            },
            [128001],
        ),
        (
            {"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009]},
            {
                "_from_model_config": True,
                "bos_token_id": 128000,
                "eos_token_id": [128001, 128008, 128009],
                "pad_token_id": 128004,
                "transformers_version": "4.43.1",
            },
            [128001, 128008, 128009],
        ),
        # Meta-Llama-3-8B-Instruct: the file names an end that config.json does not.
        (
            {"bos_token_id": 128000, "eos_token_id": 128001},
            {
                "bos_token_id": 128000,
                "do_sample": True,
                "eos_token_id": [128001, 128009],
                "max_length": 4096,
                "temperature": 0.6,
                "top_p": 0.9,
            },
            [128001, 128009],
        ),
        ({"bos_token_id": 128000, "eos_token_id": [128001, 128009]}, {}, [128001, 128009]),
    ],
)
def test_published_models(
    tmp_path: Path, config: dict[str, Any], generation_config: dict[str, Any], stops: list[int]
) -> None:
    raw = generation(tmp_path, config=config, generation_config=generation_config)
    assert raw["bos_token_id"] == 128000 and raw["stop_token_ids"] == stops
    sampled = {"temperature": 0.6, "top_k": 50, "top_p": 0.9}
    assert raw["sampling"] == (
        sampled if generation_config.get("do_sample") else {"temperature": 0.0}
    )


def tokenizer(folder: Path, *tokens: str, **config: Any) -> Path:
    """Write a tokenizer of these tokens, all special, and its settings."""
    folder.mkdir(exist_ok=True)
    words = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    words.add_special_tokens(list(tokens))
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_the_tokenizer_of_an_adapter_goes_before_the_base_models(tmp_path: Path) -> None:
    base = tokenizer(tmp_path / "base", "<end>", eos_token="<end>", chat_template="base")
    checkpoint(base, config={"eos_token_id": 1}, generation_config={"do_sample": True})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    alone = read_generation(base)
    assert read_generation(base, adapter) == alone  # it has weights only
    assert tokenizer_folder(base, adapter) == base == tokenizer_folder(base)
    assert alone[0]["stop_token_ids"] == [1] and alone[1] == "base"

    tokenizer(adapter, "<end>", "<turn>", eos_token="<turn>", chat_template="own")
    raw, template = read_generation(base, adapter)
    assert tokenizer_folder(base, adapter) == adapter
    assert template == "own"
    assert raw["stop_token_ids"] == [1, 2]
    assert raw["special_tokens"] == {"eos_token": "<turn>"}
    assert raw["sampling"] == alone[0]["sampling"]

    (adapter / "generation_config.json").write_text('{"eos_token_id": 5}')
    raw, _ = read_generation(base, adapter)
    assert raw["stop_token_ids"] == [5, 2] and raw["sampling"] == {"temperature": 0.0}
    GenerationConfig.from_json(raw)


def test_half_a_tokenizer_beside_an_adapter_is_refused(tmp_path: Path) -> None:
    base = checkpoint(tokenizer(tmp_path / "base"))
    adapter = tokenizer(tmp_path / "adapter", "<end>", eos_token="<turn>")
    with pytest.raises(ExportError, match=r"eos_token '<turn>', which tokenizer\.json lacks"):
        read_generation(base, adapter)
    (adapter / "tokenizer.json").write_text("{")
    with pytest.raises(ExportError, match=r"tokenizer\.json: not a tokenizer"):
        read_generation(base, adapter)
    (adapter / "tokenizer.json").unlink()
    with pytest.raises(ExportError, match=r"tokenizer_config\.json without tokenizer\.json"):
        read_generation(base, adapter)


def test_real_checkpoints(shared_data: Path) -> None:
    for model in ("stories260k", "babyllama105"):
        raw, template = read_generation(shared_data / model)
        assert template is None
        assert raw == {
            "bos_token_id": 1,
            "stop_token_ids": [1, 2],
            "sampling": {"temperature": 0.0},
            "special_tokens": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        }
