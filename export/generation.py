"""Read what a checkpoint says about generating: ids, sampling, special tokens, chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgellama.export.error import ExportError

GENERATION_CONFIG = "generation_config.json"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
TEMPLATE = "chat_template.jinja"

# Values with which a setting of transformers' GenerationConfig changes nothing, for the settings
# that the runtime does not have; any other value would be ignored silently, so it is refused.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "top_h": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None,),
    "sequence_bias": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1.0),
    "stop_strings": (None, []),
}


def tokenizer_folder(checkpoint: Path, adapter: Path | None = None) -> Path:
    """Return the folder whose tokenizer counts: the adapter's where it has one of its own.

    Training tools save the tokenizer and the chat template that they used beside the adapter.
    Raises ExportError for an adapter with settings of a tokenizer and no tokenizer.
    """
    if adapter is None or (adapter / TOKENIZER).is_file():
        return checkpoint if adapter is None else adapter
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS, TEMPLATE):
        if (adapter / name).is_file():
            raise ExportError(
                f"{adapter}: {name} without {TOKENIZER}; save the fast tokenizer that it was "
                f"trained with beside it, or remove {name} to use the base model's"
            )
    return checkpoint


def read_generation(
    checkpoint: Path, adapter: Path | None = None
) -> tuple[dict[str, Any], str | None]:
    """Return the content of `generation.json` and the chat template, None where there is none.

    `generation_config.json` goes before `config.json`, as in transformers' `generate`; a tokenizer
    setting before `special_tokens_map.json`; `chat_template.jinja` before the tokenizer's setting.
    Limits of length are left to the request. An adapter's own tokenizer and generation settings go
    before the base model's, and the end token of that tokenizer stops too: it ended the answers
    that the adapter was trained on.
    Raises ExportError naming file and key.
    """
    config = _read(checkpoint, CONFIG)
    folder = tokenizer_folder(checkpoint, adapter)
    tokenizer = _read(folder, TOKENIZER_CONFIG, optional=True)
    own = adapter is not None and (adapter / GENERATION_CONFIG).is_file()
    settings = adapter if adapter is not None and own else checkpoint
    generation = _read(settings, GENERATION_CONFIG, optional=True)
    special_tokens = {
        **_special_tokens(_read(folder, SPECIAL_TOKENS, optional=True)),
        **_special_tokens(tokenizer),
    }
    stops = _stops(generation, config)
    if folder == adapter and "eos_token" in special_tokens:
        end = _token_id(folder, special_tokens["eos_token"])
        stops = list(dict.fromkeys([*stops, end]))
    return (
        {
            "bos_token_id": _bos(generation, config),
            "stop_token_ids": stops,
            "sampling": _sampling(generation),
            "special_tokens": special_tokens,
        },
        _template(folder, tokenizer),
    )


def _token_id(folder: Path, text: str) -> int:
    """Return the id of a special token of a tokenizer."""
    try:
        found = Tokenizer.from_file(str(folder / TOKENIZER)).token_to_id(text)
    except Exception as error:  # the library raises Exception itself
        raise ExportError(f"{folder / TOKENIZER}: not a tokenizer: {error}") from error
    if found is None:
        raise ExportError(
            f"{folder}: {TOKENIZER_CONFIG} has the eos_token {text!r}, which {TOKENIZER} lacks"
        )
    return int(found)


def _read(checkpoint: Path, name: str, *, optional: bool = False) -> dict[str, Any]:
    path = checkpoint / name
    if optional and not path.is_file():
        return {}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"{path} is missing; {checkpoint} is not a checkpoint") from error
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ExportError(f"{path} holds a {type(raw).__name__}; an object is needed")
    return raw


def _first(key: str, *files: tuple[str, Mapping[str, Any]]) -> tuple[str, Any]:
    """Return the first value that is not null, and the name of its file."""
    for name, raw in files:
        if raw.get(key) is not None:
            return name, raw[key]
    return files[-1][0], None


def _checked_id(value: Any, name: str, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ExportError(f"{name}: {key} is {value!r}; token ids are integers from 0")
    return value


def _bos(generation: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    name, value = _first("bos_token_id", (GENERATION_CONFIG, generation), (CONFIG, config))
    return None if value is None else _checked_id(value, name, "bos_token_id")


def _stops(generation: Mapping[str, Any], config: Mapping[str, Any]) -> list[int]:
    """Return the stop ids in their order, each once; none where the checkpoint names none."""
    name, value = _first("eos_token_id", (GENERATION_CONFIG, generation), (CONFIG, config))
    ids = value if isinstance(value, list) else [] if value is None else [value]
    return list(dict.fromkeys(_checked_id(i, name, "eos_token_id") for i in ids))


def _sampling(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of `Sampling`; a missing one has transformers' default, null turns it off.

    Defaults by transformers' documentation of GenerationConfig: do_sample false, temperature 1.0,
    top_p 1.0, top_k 50.
    """
    for key, neutral in _NEUTRAL.items():
        if generation.get(key) not in neutral:
            raise ExportError(
                f"{GENERATION_CONFIG}: {key} is {generation[key]!r}, which the runtime cannot do; "
                "remove it from the file if the model can do without"
            )
    sampling: dict[str, Any] = {"temperature": 0.0}
    rules = {"temperature": (1.0, 1.0), "top_k": (50, 0), "top_p": (1.0, 1.0), "min_p": (0.0, 0.0)}
    if _flag(generation, "do_sample"):
        for key, (default, off) in rules.items():
            value = generation.get(key, default)
            sampling[key] = off if value is None else _number(value, key)
        if sampling["temperature"] == 0:
            raise ExportError(
                f"{GENERATION_CONFIG}: temperature is 0 with do_sample true; set do_sample to false"
            )
    penalty = generation.get("repetition_penalty")
    if penalty is not None:  # it concerns greedy decoding too
        sampling["repetition_penalty"] = _number(penalty, "repetition_penalty")
    neutral_values = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    return {k: v for k, v in sampling.items() if k == "temperature" or v != neutral_values[k]}


def _flag(generation: Mapping[str, Any], key: str) -> bool:
    value = generation.get(key)
    if not isinstance(value, bool) and value is not None:
        raise ExportError(f"{GENERATION_CONFIG}: {key} is {value!r}; it must be true or false")
    return bool(value)


def _number(value: Any, key: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int if key == "top_k" else (int, float)):
        raise ExportError(f"{GENERATION_CONFIG}: {key} is {value!r}; it must be a number")
    return value


def _special_tokens(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of the keys `…_token`, written as strings or as added tokens."""
    texts = {}
    for key, value in raw.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            texts[key] = text
    return texts


def _template(checkpoint: Path, tokenizer: Mapping[str, Any]) -> str | None:
    path = checkpoint / TEMPLATE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = tokenizer.get("chat_template")
    if isinstance(found, list):
        named = {entry["name"]: entry["template"] for entry in found}
        if "default" not in named:
            raise ExportError(
                f"{TOKENIZER_CONFIG}: chat_template has {', '.join(sorted(named))} and no default; "
                f"write the wanted one to {path}"
            )
        found = named["default"]
    if found is not None and not isinstance(found, str):
        raise ExportError(f"{TOKENIZER_CONFIG}: chat_template is not a text")
    return found
