"""Python arguments to a GenerationSpec; shared by both clients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeGuard, TypeVar

from edgellama.grpc_service import control_pb2
from edgellama.grpc_service import generation_pb2 as pb
from edgellama.grpc_service.client_errors import InvalidRequest
from edgellama.grpc_service.spec import ROLE_NAMES
from edgellama.grpc_service.tool_wire import call_to_wire, tool_to_wire
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.tools import Tool

T = TypeVar("T")
M = TypeVar("M")
# A text, token ids, or a conversation.
Prompt = str | Sequence[int] | Sequence[ChatMessage]

_ROLES = {name: role for role, name in ROLE_NAMES.items()}


class PromptOptions(TypedDict, total=False):
    """Keyword arguments about a prompt: what a text or a chat is made into tokens with.

    All but the first are for chats. None is the same as leaving an option out.
    """

    add_special_tokens: bool | None
    add_generation_prompt: bool | None
    tools: Sequence[Tool] | None
    builtin_tools: Sequence[str] | None
    tools_in_user_message: bool | None
    date_string: str | None


class GenerateOptions(PromptOptions, total=False):
    """Keyword arguments of `generate` and `stream`; what is left out takes the model's default.

    `stop` holds stop strings; `text=False` leaves the text out. generation.proto says what the
    others mean. None is the same as leaving an option out.
    """

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    logit_bias: Mapping[int, float] | None
    bad_words: Sequence[str] | None
    bad_token_ids: Sequence[Sequence[int]] | None
    max_new_tokens: int | None
    min_new_tokens: int | None
    stop: Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    keep_match: bool | None
    ignore_eos: bool | None
    text: bool | None
    special_tokens: bool | None
    top_logprobs: int | None
    prompt_logprobs: int | None
    request_id: str | None
    cache_salt: str | None
    priority: int | None
    tenant: str | None
    json_schema: str | Mapping[str, Any] | None
    regex: str | None
    grammar: str | None
    choices: Sequence[str] | None
    n: int | None
    tool_choice: str | None


# Option -> where it goes in GenerationSpec.
_FIELDS = {
    "temperature": "sampling.temperature",
    "top_k": "sampling.top_k",
    "top_p": "sampling.top_p",
    "min_p": "sampling.min_p",
    "repetition_penalty": "sampling.repetition_penalty",
    "presence_penalty": "sampling.presence_penalty",
    "frequency_penalty": "sampling.frequency_penalty",
    "seed": "sampling.seed",
    "logit_bias": "sampling.logit_bias",
    "bad_words": "sampling.bad_words",
    "bad_token_ids": "sampling.bad_token_ids",
    "max_new_tokens": "stop.max_new_tokens",
    "min_new_tokens": "stop.min_new_tokens",
    "stop": "stop.strings",
    "stop_token_ids": "stop.token_ids",
    "keep_match": "stop.keep_match",
    "ignore_eos": "stop.ignore_eos",
    "text": "want.text",
    "special_tokens": "want.special_tokens",
    "top_logprobs": "want.top_logprobs",
    "prompt_logprobs": "want.prompt_logprobs",
    "add_special_tokens": "add_special_tokens",
    "add_generation_prompt": "chat.add_generation_prompt",
    "request_id": "request_id",
    "cache_salt": "cache_salt",
    "priority": "priority",
    "tenant": "tenant",
    "json_schema": "guide.json_schema",
    "regex": "guide.regex",
    "grammar": "guide.grammar",
    "choices": "guide.choices.texts",
    "n": "n",
    "tools": "chat.tools",
    "builtin_tools": "chat.builtin_tools",
    "tools_in_user_message": "chat.tools_in_user_message",
    "date_string": "chat.date_string",
    "tool_choice": "tool_choice",
}

_RULES = ("json_schema", "regex", "grammar", "choices")


def generation_spec(prompt: Prompt, options: Mapping[str, Any]) -> pb.GenerationSpec:
    """Return the message of a prompt and GenerateOptions; token ids are always asked for.

    Raises InvalidRequest for a value the wire cannot carry, TypeError for an unknown option.
    """
    spec = pb.GenerationSpec(want=pb.Want(token_ids=True))
    _set_prompt(spec, prompt)
    for option, value in options.items():
        if option not in _FIELDS:
            raise TypeError(f"unknown option {option!r}; known: {', '.join(_FIELDS)}")
        if value is None:
            continue
        if option in _RULES:
            if spec.HasField("guide"):
                raise _invalid("guide", f"is given twice; give one of {', '.join(_RULES)}")
            if option == "json_schema" and isinstance(value, Mapping):
                value = json.dumps(value)
        if option == "bad_token_ids":
            _set_sequences(spec, value)
            continue
        _set_option(spec, option, value)
        if option == "choices":  # an empty list is sent too, for the server to refuse
            spec.guide.choices.SetInParent()
    return spec


def chat_to_wire(messages: Sequence[ChatMessage]) -> pb.Chat:
    """Return the message of a conversation; raises InvalidRequest for text that is not Unicode."""
    chat = pb.Chat()
    for message in messages:
        turn = chat.messages.add(role=_ROLES[message.role])
        _set(turn, "content", message.content)
        _set(turn, "tool_call_id", message.tool_call_id)
        calls = [_checked(call_to_wire, call, "chat.messages") for call in message.tool_calls]
        turn.tool_calls.extend(calls)
    return chat


def _set_prompt(spec: pb.GenerationSpec, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        _set(spec, "text", prompt)
    elif len(prompt) == 0:
        raise _invalid("input", "is an empty list; give a text, token ids or chat messages")
    elif isinstance(prompt[0], ChatMessage):
        spec.chat.CopyFrom(chat_to_wire([turn for turn in prompt if _is_turn(turn)]))
    else:
        _set(spec, "tokens.ids", prompt)


def _is_turn(item: object) -> TypeGuard[ChatMessage]:
    if not isinstance(item, ChatMessage):
        raise TypeError(f"a chat prompt holds ChatMessage only, not {type(item).__name__}")
    return True


def _set_option(message: pb.GenerationSpec | pb.TokenizeRequest, option: str, value: Any) -> None:
    field = _FIELDS[option]
    if field.startswith("chat.") and not message.HasField("chat"):
        raise _invalid(field, "is set, but the prompt is not a chat")
    if option == "tools":
        value = [_checked(tool_to_wire, tool, field) for tool in value]
    _set(message, field, value)


def _set(message: Any, path: str, value: Any) -> None:
    """Set a field by its dotted path; a value out of its type's range is InvalidRequest."""
    *parents, name = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    try:
        if isinstance(value, Mapping):
            for key, entry in value.items():
                getattr(message, name)[key] = entry
        elif isinstance(value, Iterable) and not isinstance(value, str):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    except (AttributeError, TypeError, ValueError) as error:
        raise _invalid(path, f"cannot be sent: {error}") from error


def _set_sequences(spec: pb.GenerationSpec, sequences: Sequence[Sequence[int]]) -> None:
    try:
        spec.sampling.bad_token_ids.extend(pb.TokenIds(ids=ids) for ids in sequences)
    except (TypeError, ValueError) as error:
        raise _invalid("sampling.bad_token_ids", f"cannot be sent: {error}") from error


def _checked(to_wire: Callable[[T], M], record: T, field: str) -> M:
    """Return the message of a record; raises InvalidRequest for what the wire cannot carry."""
    try:
        return to_wire(record)
    except (AttributeError, TypeError, ValueError) as error:
        raise _invalid(field, f"cannot be sent: {error}") from error


def _invalid(field: str, text: str) -> InvalidRequest:
    error = InvalidRequest(f"{field}: {text}", reason="INVALID_REQUEST")
    error.field = field
    return error


def steps_request(last: int | None) -> control_pb2.StreamStepsRequest:
    """Return the message; raises InvalidRequest for a value the wire cannot carry."""
    request = control_pb2.StreamStepsRequest()
    if last is not None:
        _set(request, "last", last)
    return request


def tokenize_request(
    text: str | Sequence[ChatMessage], options: Mapping[str, Any]
) -> pb.TokenizeRequest:
    """Return the message of a text or a chat and PromptOptions; raises as `generation_spec`."""
    request = pb.TokenizeRequest()
    if isinstance(text, str):
        _set(request, "text", text)
    else:
        request.chat.CopyFrom(chat_to_wire(text))
    for option, value in options.items():
        if option not in PromptOptions.__annotations__:
            known = ", ".join(PromptOptions.__annotations__)
            raise TypeError(f"unknown option {option!r}; known: {known}")
        if value is not None:
            _set_option(request, option, value)
    return request
