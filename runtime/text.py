"""Text to token ids and back, from the files of an engine directory."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer

from edgellama.runtime.chat import ChatMessage, ChatTemplate
from edgellama.runtime.conversation import CHAT_OPTIONS, Conversation
from edgellama.runtime.detokenize import StreamDecoder
from edgellama.runtime.guard import Guard
from edgellama.runtime.guide import Guide
from edgellama.runtime.guide_matcher import GuideCompiler, GuideMatcher
from edgellama.runtime.manifest import EngineError
from edgellama.runtime.request import InvalidRequestError, Sampling, Stop
from edgellama.runtime.token_bytes import TokenBytes
from edgellama.runtime.tools import Toolset

TOKENIZER_NAME = "tokenizer.json"
GENERATION_NAME = "generation.json"
TEMPLATE_NAME = "chat_template.jinja"
_KEPT_BAD_WORDS = 64  # lists of them

_GENERATION_KEYS = ("bos_token_id", "stop_token_ids", "sampling", "special_tokens")
_SAMPLING_KEYS: Mapping[str, tuple[type, ...]] = {
    "temperature": (int, float),
    "top_k": (int,),
    "top_p": (int, float),
    "min_p": (int, float),
    "repetition_penalty": (int, float),
    "presence_penalty": (int, float),
    "frequency_penalty": (int, float),
}


@dataclass(frozen=True)
class GenerationConfig:
    """What the model's authors set: `stop_ids` end an answer, `special_tokens` name their texts."""

    bos_id: int | None
    stop_ids: tuple[int, ...]
    default_sampling: Sampling
    special_tokens: Mapping[str, str]

    @classmethod
    def from_json(cls, raw: Any) -> GenerationConfig:
        """Check the content of `generation.json`; raises ValueError naming the key."""
        if not isinstance(raw, dict):
            raise ValueError(f"is a JSON {type(raw).__name__}; an object is needed")
        _same_keys(raw, _GENERATION_KEYS)
        bos, stops = raw["bos_token_id"], raw["stop_token_ids"]
        if bos is not None and not _is_id(bos):
            raise ValueError(f"bos_token_id is {bos!r}; it must be an id or null")
        if not isinstance(stops, list) or not all(map(_is_id, stops)):
            raise ValueError(f"stop_token_ids is {stops!r}; it must be a list of ids")
        names = raw["special_tokens"]
        if not isinstance(names, dict) or not all(
            name.endswith("_token") and isinstance(text, str) for name, text in names.items()
        ):
            raise ValueError(f"special_tokens is {names!r}; it must map `…_token` to texts")
        return cls(bos, tuple(stops), _sampling(raw["sampling"]), MappingProxyType(names))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _same_keys(raw: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in raw:
        if key not in keys:
            raise ValueError(f"has the unknown key {key}; known are {', '.join(keys)}")
    for key in keys:
        if key not in raw:
            raise ValueError(f"lacks the key {key}")


def _sampling(raw: Any) -> Sampling:
    if not isinstance(raw, dict):
        raise ValueError(f"sampling is {raw!r}; it must be an object")
    for key, value in raw.items():
        if key not in _SAMPLING_KEYS:
            known = ", ".join(_SAMPLING_KEYS)
            raise ValueError(f"has the unknown key sampling.{key}; known are {known}")
        if not isinstance(value, _SAMPLING_KEYS[key]) or isinstance(value, bool):
            raise ValueError(f"sampling.{key} is {value!r}; it must be a number")
    return Sampling(**raw)


class TextCodec:
    """The tokenizer, chat template and defaults of one model; safe to use from several threads.

    Decoding is defined by `TokenBytes`: ids beyond the tokenizer add nothing.
    """

    def __init__(
        self, tokenizer: Tokenizer, generation: GenerationConfig, template: ChatTemplate | None
    ) -> None:
        # A tokenizer file may ask for cut or padded texts, which would change a prompt silently.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.generation = generation
        self._tokenizer = tokenizer
        self._template = template
        self._pieces = TokenBytes(tokenizer)
        added = tokenizer.get_added_tokens_decoder()
        self._guard = Guard({i: added[i] for i in self._pieces.special_ids})
        self._guides = GuideCompiler(tokenizer, generation.stop_ids)
        self._lock = threading.Lock()
        self._bad_words = lru_cache(_KEPT_BAD_WORDS)(self._tokenise_bad_words)

    @classmethod
    def load(cls, directory: Path) -> TextCodec:
        """Read `tokenizer.json`, `generation.json` and, if present, `chat_template.jinja`.

        Raises EngineError naming the file and what is wrong with it.
        """
        for name in (TOKENIZER_NAME, GENERATION_NAME):
            if not (directory / name).is_file():
                raise EngineError(f"{directory / name} is missing; rebuild the engine")
        path = directory / GENERATION_NAME
        try:
            generation = GenerationConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
            path = directory / TEMPLATE_NAME
            template = None
            if path.is_file():
                template = ChatTemplate(path.read_text(encoding="utf-8"), generation.special_tokens)
            path = directory / TOKENIZER_NAME
            return cls(_read_tokenizer(path), generation, template)
        except ValueError as error:
            raise EngineError(f"{path}: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Ids in `[0, vocab_size)` exist in the tokenizer; the model may have more."""
        return self._pieces.vocab_size

    @property
    def has_chat_template(self) -> bool:
        """Whether `encode_chat` can work."""
        return self._template is not None

    @property
    def chat_options(self) -> tuple[str, ...]:
        """Those of CHAT_OPTIONS that the chat template asks for."""
        known = self._template.variables if self._template is not None else ()
        return tuple(name for name in CHAT_OPTIONS if name in known)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a raw prompt, in which special tokens may be written out.

        `add_special_tokens` adds what the tokenizer's post-processor says (Llama: the begin).
        Raises InvalidRequestError when the text is not Unicode.
        """
        return self._encode(text, "prompt", add_special_tokens=add_special_tokens)

    def encode_chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        tools: Toolset | None = None,
        date_string: str | None = None,
    ) -> list[int]:
        """Return the ids of a rendered conversation; special tokens come from the template only.

        `date_string` None leaves the date to the template. Texts without special tokens, that is
        nearly all, are encoded as the whole rendered text, exactly as transformers does. Otherwise
        the text is cut at the template's special tokens, where a tokenizer cuts it too, and each
        run is encoded with special tokens read as text.
        Raises InvalidRequestError with field `chat` or one of its own.
        """
        if self._template is None:
            raise InvalidRequestError(
                "chat", "this model has no chat template; send the prompt as text instead"
            )
        conversation = Conversation(messages, tools, date_string)
        texts: list[str] = []

        def collect(_: str, text: str) -> str:
            texts.append(text)
            return text

        conversation.variables(collect)
        marked, mark = self._guard.mark(texts, self._template.source)
        changed = dict(zip(texts, marked, strict=True))
        variables = conversation.variables(lambda _, text: changed[text])
        rendered = self._template.fill(variables, add_generation_prompt)
        conversation.require_shown(self._template, mark, add_generation_prompt)
        parts = self._guard.split(rendered, mark)
        ids: list[int]
        if marked == texts:
            ids = self._encode(rendered, "chat", add_special_tokens=False)
            special = [i for i in ids if i in self._pieces.special_ids]
            # They differ where the tokenizer's normalizer makes a special token of a lookalike.
            if special == [part for part in parts if isinstance(part, int)]:
                return ids
        ids = []
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode(part, "chat", add_special_tokens=False, literal=True)
        return ids

    def special_id(self, text: str) -> int | None:
        """Return the id of a special token, None where the tokenizer has none of this text."""
        found: int | None = self._tokenizer.token_to_id(text)
        return found if found in self._pieces.special_ids else None

    def guide(self, guide: Guide) -> GuideMatcher:
        """Return what a guide allows, from its beginning; raises InvalidRequestError.

        Slow for a guide that is new, and seconds for the first of all.
        """
        return self._guides.matcher(guide)

    def bad_words(self, words: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """Return the token sequences of words, each with and without a space in front.

        Special tokens may be written out. Kept for those that ask the same again. Raises
        InvalidRequestError when a word is not Unicode or has no token.
        """
        return self._bad_words(words)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of ids, equal to what `stream` gives out for them without a prompt."""
        return self._pieces.text(ids, skip_special_tokens=skip_special_tokens)

    def stream(
        self, prompt_ids: Sequence[int], stop: Stop, *, skip_special_tokens: bool = True
    ) -> StreamDecoder:
        """Return a decoder for the output that continues a prompt."""
        return StreamDecoder(
            self._pieces, prompt_ids, stop, skip_special_tokens=skip_special_tokens
        )

    def _tokenise_bad_words(self, words: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        field, found = "sampling.bad_words", []
        for word in words:
            bare = word.lstrip(" ")
            both = [
                tuple(self._encode(text, field, add_special_tokens=False))
                for text in (bare, f" {bare}")
            ]
            if not any(both):
                raise InvalidRequestError(field, f"has {word!r}, for which there is no token")
            found += [ids for ids in both if ids]
        return tuple(found)

    def _encode(
        self, text: str, field: str, *, add_special_tokens: bool, literal: bool = False
    ) -> list[int]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequestError(
                field, f"holds a lone surrogate at character {error.start}; send valid Unicode"
            ) from error
        # The reading of special tokens is a setting of the tokenizer, so one text at a time.
        with self._lock:
            self._tokenizer.encode_special_tokens = literal
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids


def _read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer file; raises ValueError."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"is not a tokenizer ({error})") from error
