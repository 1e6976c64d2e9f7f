"""A conversation with tools as the variables of a chat template."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from edgellama.runtime.chat import ChatMessage, ChatTemplate
from edgellama.runtime.invalid_request import InvalidRequestError
from edgellama.runtime.tools import (
    MAX_ARGUMENTS_CHARS,
    ToolCall,
    Toolset,
    check_tool_name,
    json_object,
)

# Takes the place of a text, such as `chat.messages[0].content`, and the text; returns another.
Change = Callable[[str, str], str]
MAX_DATE_CHARS = 128
# What a template may be told beside the messages.
CHAT_OPTIONS = ("tools", "builtin_tools", "tools_in_user_message", "date_string")


@dataclass(frozen=True)
class Conversation:
    """Messages, the tools on offer and the date; a call and its result must fit together."""

    messages: Sequence[ChatMessage]
    tools: Toolset | None = None
    date_string: str | None = None

    def __post_init__(self) -> None:
        if self.date_string is not None and len(self.date_string) > MAX_DATE_CHARS:
            raise InvalidRequestError(
                "chat.date_string",
                f"has {len(self.date_string)} characters; at most {MAX_DATE_CHARS}",
            )
        made: set[str] = set()  # ids of the calls so far
        for index, message in enumerate(self.messages):
            place = f"chat.messages[{index}]"
            if message.tool_calls and message.role != "assistant":
                raise InvalidRequestError(
                    f"{place}.tool_calls",
                    f"is set in a message of role {message.role}; only an assistant calls tools",
                )
            for number, call in enumerate(message.tool_calls):
                _check_call(call, f"{place}.tool_calls[{number}]", made)
                made.update({call.id} - {""})
            answered = message.tool_call_id
            if answered and message.role != "tool":
                raise InvalidRequestError(
                    f"{place}.tool_call_id",
                    f"is set in a message of role {message.role}; only the result of a tool has it",
                )
            if answered and answered not in made:
                raise InvalidRequestError(
                    f"{place}.tool_call_id",
                    f"is {answered!r}; no call of an earlier message has this id",
                )

    def variables(self, change: Change) -> dict[str, Any]:
        """Return what the template is told, as transformers names it, with every text changed."""
        found: dict[str, Any] = {
            "messages": [self._message(index, change) for index in range(len(self.messages))]
        }
        if self.date_string is not None:
            found["date_string"] = change("chat.date_string", self.date_string)
        if self.tools is not None:
            found.update(_tools(self.tools, change))
        return found

    def require_shown(self, template: ChatTemplate, mark: str, add_generation_prompt: bool) -> None:
        """Refuse what the template would drop: a tool, a call, its result, the text beside it.

        `mark` is a character that occurs nowhere. The conversation is rendered once more with a
        mark of its own in each of these, which must come out again. Raises InvalidRequestError.
        """
        places: dict[str, str] = {}

        def label(place: str, text: str) -> str:
            if not self._is_checked(place):
                return text
            return text + places.setdefault(place, f"{mark}{len(places)}{mark}")

        variables = self.variables(label)
        if not places:
            return
        rendered = template.fill(variables, add_generation_prompt)
        for place, shown in places.items():
            if shown not in rendered:
                raise InvalidRequestError(
                    place,
                    "is dropped by the chat template of this model, so it could not see it; "
                    "leave it out, or use a checkpoint whose template shows it",
                )

    def _is_checked(self, place: str) -> bool:
        head, _, field = place.rpartition(".")
        if head.startswith("chat.tools["):
            return field in ("name", "description")
        if ".tool_calls[" in head:
            return field in ("name", "arguments")
        if field != "content":
            return False
        message = self.messages[int(head[len("chat.messages[") : -1])]
        return bool(message.content) and (message.role == "tool" or bool(message.tool_calls))

    def _message(self, index: int, change: Change) -> dict[str, Any]:
        message, place = self.messages[index], f"chat.messages[{index}]"
        found: dict[str, Any] = {
            "role": message.role,
            "content": change(f"{place}.content", message.content),
        }
        if message.tool_calls:  # templates ask whether there is such a key
            found["tool_calls"] = [
                _call(message, number, f"{place}.tool_calls[{number}]", change)
                for number in range(len(message.tool_calls))
            ]
        if message.tool_call_id:
            found["tool_call_id"] = change(f"{place}.tool_call_id", message.tool_call_id)
        return found


def _check_call(call: ToolCall, place: str, made: Collection[str]) -> None:
    check_tool_name(call.name, f"{place}.name")
    if len(call.arguments) > MAX_ARGUMENTS_CHARS:
        raise InvalidRequestError(
            f"{place}.arguments",
            f"has {len(call.arguments)} characters; at most {MAX_ARGUMENTS_CHARS}",
        )
    json_object(call.arguments, f"{place}.arguments", "the object of the arguments")
    if call.id in made:
        raise InvalidRequestError(
            f"{place}.id", f"is {call.id!r} again; each call needs its own id, or none"
        )


def _call(message: ChatMessage, number: int, place: str, change: Change) -> dict[str, Any]:
    call, field = message.tool_calls[number], f"{place}.arguments"
    arguments = json_object(call.arguments, field, "the object of the arguments")
    return {
        **({"id": change(f"{place}.id", call.id)} if call.id else {}),
        "type": "function",
        "function": {
            "name": change(f"{place}.name", call.name),
            "arguments": _changed(arguments, field, change),
        },
    }


def _tools(toolset: Toolset, change: Change) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if toolset.tools:
        found["tools"] = []
    for index, tool in enumerate(toolset.tools):
        place = f"chat.tools[{index}]"
        schema = json_object(tool.parameters, f"{place}.parameters", "a JSON schema")
        function = {"name": change(f"{place}.name", tool.name)}
        if tool.description:
            function["description"] = change(f"{place}.description", tool.description)
        function["parameters"] = _changed(schema, f"{place}.parameters", change)
        found["tools"].append({"type": "function", "function": function})
    if toolset.builtin_tools:
        found["builtin_tools"] = list(toolset.builtin_tools)
    if toolset.tools_in_user_message is not None:
        found["tools_in_user_message"] = toolset.tools_in_user_message
    return found


def _changed(value: Any, place: str, change: Change) -> Any:
    """Return a JSON value with all of its texts changed, names of members too."""
    if isinstance(value, str):
        return change(place, value)
    if isinstance(value, dict):
        return {
            change(place, name): _changed(member, place, change) for name, member in value.items()
        }
    if isinstance(value, list):
        return [_changed(member, place, change) for member in value]
    return value
