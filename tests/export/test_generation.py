"""The settings of a checkpoint as `generation.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgellama.export.error import ExportError
from edgellama.export.generation import read_generation
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
