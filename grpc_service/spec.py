"""GenerationSpec and its parts: from the wire to the engine's records, and the way back."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgellama.grpc_service import generation_pb2 as pb
from edgellama.grpc_service.tool_wire import call_from_wire, toolset_from_wire
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.guide import Guide
from edgellama.runtime.request import InvalidRequestError, Request, Sampling, Stop

if TYPE_CHECKING:
    from edgellama.runtime.text import TextCodec

MAX_REQUEST_ID_CHARS = 128

_OPTIONAL_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
ROLE_NAMES = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}
# Names of `runtime.request` that are called otherwise on the wire.
_WIRE_FIELDS = {
    "top_logprobs": "want.top_logprobs",
    "prompt_logprobs": "want.prompt_logprobs",
    "special_tokens": "want.special_tokens",
}


def mint_request_id() -> str:
    """Return a fresh id."""
    return uuid.uuid4().hex


def check_request_id(request_id: str) -> None:
    """Refuse an id that must not go into a log line; raises InvalidRequestError."""
    if len(request_id) > MAX_REQUEST_ID_CHARS:
        raise InvalidRequestError(
            "request_id", f"has {len(request_id)} characters; at most {MAX_REQUEST_ID_CHARS}"
        )
    if not all("!" <= character <= "~" for character in request_id):
        raise InvalidRequestError(
            "request_id", "has a space or a character that is not printable ASCII"
        )


def sampling_from_wire(message: pb.Sampling, defaults: Sampling) -> Sampling:
    """Return the sampling asked for; an absent field takes the model's default."""
    values = {
        name: getattr(message if message.HasField(name) else defaults, name)
        for name in _OPTIONAL_SAMPLING
    }
    return Sampling(
        **values,
        logit_bias=dict(message.logit_bias) or defaults.logit_bias,
        bad_words=tuple(message.bad_words) or defaults.bad_words,
        bad_token_ids=tuple(tuple(each.ids) for each in message.bad_token_ids)
        or defaults.bad_token_ids,
    )


def sampling_to_wire(sampling: Sampling) -> pb.Sampling:
    """Return the message of a sampling, every field set but an undecided seed."""
    message = pb.Sampling(
        logit_bias=dict(sampling.logit_bias),
        bad_words=sampling.bad_words,
        bad_token_ids=[pb.TokenIds(ids=ids) for ids in sampling.bad_token_ids],
    )
    for name in _OPTIONAL_SAMPLING:
        value = getattr(sampling, name)
        if value is not None:
            setattr(message, name, value)
    return message


def stop_from_wire(message: pb.Stop) -> Stop:
    """Return the stop rules asked for."""
    return Stop(
        max_new_tokens=message.max_new_tokens if message.HasField("max_new_tokens") else None,
        min_new_tokens=message.min_new_tokens,
        strings=tuple(message.strings),
        token_ids=tuple(message.token_ids),
        keep_match=message.keep_match,
        ignore_eos=message.ignore_eos,
    )


def guide_from_wire(message: pb.Guide) -> Guide:
    """Return the rule asked for; raises InvalidRequestError."""
    rule = message.WhichOneof("rule")
    if rule is None:
        return Guide()  # which refuses it
    if rule == "choices":
        return Guide(choices=tuple(message.choices.texts))
    return Guide(**{rule: getattr(message, rule)})


def chat_from_wire(chat: pb.Chat) -> tuple[ChatMessage, ...]:
    """Return the turns of a conversation; raises InvalidRequestError."""
    if not chat.messages:
        raise InvalidRequestError("chat.messages", "is empty; at least one message is needed")
    for index, message in enumerate(chat.messages):
        if message.role not in ROLE_NAMES:
            raise InvalidRequestError(
                f"chat.messages[{index}].role",
                f"is {message.role}; it must be one of "
                + ", ".join(pb.Role.Name(role) for role in ROLE_NAMES),
            )
    return tuple(
        ChatMessage(
            ROLE_NAMES[m.role],
            m.content,
            tuple(map(call_from_wire, m.tool_calls)),
            m.tool_call_id,
        )
        for m in chat.messages
    )


def prompt_ids(
    message: pb.GenerationSpec | pb.TokenizeRequest, codec: TextCodec
) -> tuple[int, ...]:
    """Return the token ids of the prompt; slow for long texts.

    Raises InvalidRequestError, see `on_the_wire`.
    """
    kind = message.WhichOneof("input")
    if kind is None:
        names = ", ".join(field.name for field in message.DESCRIPTOR.oneofs_by_name["input"].fields)
        raise InvalidRequestError("input", f"is missing; set one of {names}")
    if message.HasField("add_special_tokens") and kind != "text":
        raise InvalidRequestError(
            "add_special_tokens", f"is set, but it concerns `text` and the input is `{kind}`"
        )
    if kind == "text":
        special = message.add_special_tokens if message.HasField("add_special_tokens") else True
        return tuple(codec.encode(message.text, add_special_tokens=special))
    if kind == "chat":
        header = message.chat.HasField("add_generation_prompt")
        return tuple(
            codec.encode_chat(
                chat_from_wire(message.chat),
                add_generation_prompt=message.chat.add_generation_prompt if header else True,
                tools=toolset_from_wire(message.chat),
                date_string=(
                    message.chat.date_string if message.chat.HasField("date_string") else None
                ),
            )
        )
    assert isinstance(message, pb.GenerationSpec)  # only it has `tokens`
    return tuple(message.tokens.ids)


def request_from_wire(
    spec: pb.GenerationSpec, ids: Sequence[int], request_id: str, defaults: Sampling
) -> Request:
    """Return the engine's request; raises InvalidRequestError, see `on_the_wire`."""
    return Request(
        prompt_ids=tuple(ids),
        sampling=sampling_from_wire(spec.sampling, defaults),
        stop=stop_from_wire(spec.stop),
        top_logprobs=spec.want.top_logprobs if spec.want.HasField("top_logprobs") else None,
        request_id=request_id,
        skip_special_tokens=not spec.want.special_tokens,
        cache_salt=spec.cache_salt,
        priority=spec.priority,
        tenant=spec.tenant,
        guide=guide_from_wire(spec.guide) if spec.HasField("guide") else None,
        n=spec.n if spec.HasField("n") else 1,
        prompt_logprobs=spec.want.prompt_logprobs
        if spec.want.HasField("prompt_logprobs")
        else None,
        tools=toolset_from_wire(spec.chat),
        tool_choice=spec.tool_choice or "auto",
    )


def on_the_wire(
    error: InvalidRequestError, message: pb.GenerationSpec | pb.TokenizeRequest
) -> InvalidRequestError:
    """Return the error with the field as a client of this service knows it."""
    field = _WIRE_FIELDS.get(error.field, error.field)
    if field == "prompt":
        kind = message.WhichOneof("input") or "input"
        field = "tokens.ids" if kind == "tokens" else kind
    return InvalidRequestError(field, error.message)
