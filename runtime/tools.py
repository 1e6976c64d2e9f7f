"""The functions that a model is offered and the calls that it makes; standard library only."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from edgellama.runtime.invalid_request import InvalidRequestError

MAX_TOOLS = 128
MAX_TOOL_NAME_CHARS = 64
# Of all names, descriptions and schemas together; a prompt holds them all.
MAX_TOOLS_CHARS = 40_000
MAX_ARGUMENTS_CHARS = 65_536
MAX_JSON_DEPTH = 32
# What Llama 3.1 was trained to call without a schema; their names mean nothing else.
CODE_INTERPRETER = "code_interpreter"
BUILTIN_TOOLS = ("brave_search", "wolfram_alpha", CODE_INTERPRETER)
# What `Request.tool_choice` may be besides the name of a tool.
TOOL_CHOICES = ("auto", "none", "required")

_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_TOOL_NAME_CHARS - 1}}}")


@dataclass(frozen=True)
class Tool:
    """A function; `parameters` is the text of a JSON schema of type object. See Toolset."""

    name: str
    description: str
    parameters: str


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool; `arguments` is the text of a JSON object, `id` names it in later turns."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True)
class Toolset:
    """What one request offers, valid once it exists; its errors name fields of `chat`.

    `builtin_tools` are names out of BUILTIN_TOOLS. `tools_in_user_message` None leaves it to the
    chat template whether the tools stand in the system's or in the first message of the user.
    """

    tools: tuple[Tool, ...] = ()
    builtin_tools: tuple[str, ...] = ()
    tools_in_user_message: bool | None = None

    def __post_init__(self) -> None:
        if not self.tools and not self.builtin_tools:
            _refuse("chat.tools", "is empty; offer a tool or leave out what is about tools")
        if not self.tools and self.tools_in_user_message is not None:
            _refuse("chat.tools_in_user_message", "is set without chat.tools; leave it out")
        if len(self.tools) > MAX_TOOLS:
            _refuse("chat.tools", f"has {len(self.tools)} entries; at most {MAX_TOOLS}")
        size = sum(len(t.name) + len(t.description) + len(t.parameters) for t in self.tools)
        if size > MAX_TOOLS_CHARS:
            _refuse("chat.tools", f"has {size} characters; at most {MAX_TOOLS_CHARS}")
        for index, name in enumerate(self.builtin_tools):
            if name not in BUILTIN_TOOLS:
                known = ", ".join(BUILTIN_TOOLS)
                _refuse(f"chat.builtin_tools[{index}]", f"is {name!r}; known are {known}")
        seen = set(self.builtin_tools)
        if len(seen) < len(self.builtin_tools):
            _refuse("chat.builtin_tools", "names a tool twice; once is enough")
        for index, tool in enumerate(self.tools):
            place = f"chat.tools[{index}]"
            check_tool_name(tool.name, f"{place}.name")
            if tool.name in seen:
                _refuse(f"{place}.name", f"is {tool.name!r} again; each tool needs its own name")
            seen.add(tool.name)
            _check_schema(tool.parameters, f"{place}.parameters")

    @property
    def names(self) -> frozenset[str]:
        """All that may be called."""
        return frozenset([*self.builtin_tools, *(tool.name for tool in self.tools)])


def check_tool_name(name: str, field: str) -> None:
    """Refuse what is no name of a function; raises InvalidRequestError."""
    if not _NAME.fullmatch(name):
        _refuse(
            field,
            f"is {name[:80]!r}; a name has 1 to {MAX_TOOL_NAME_CHARS} letters, digits, _, - and ., "
            "and begins with none of the last two",
        )
    if name in TOOL_CHOICES:
        _refuse(field, f"is {name!r}, which means something else as a tool_choice; rename the tool")


def check_tool_choice(choice: str, tools: Toolset | None) -> None:
    """Refuse what is neither one of TOOL_CHOICES nor can be forced; raises InvalidRequestError."""
    if tools is None:
        if choice != "auto":
            _refuse("tool_choice", f"is {choice!r} without tools; offer some or leave it out")
        return
    names = [tool.name for tool in tools.tools]
    if choice not in (*TOOL_CHOICES, *names):
        _refuse(
            "tool_choice", f"is {choice!r}; it must be one of {', '.join((*TOOL_CHOICES, *names))}"
        )
    if choice == "required" and not names:
        _refuse("tool_choice", "is 'required' without a tool that has a schema; offer one")


def json_object(text: str, field: str, needed: str) -> dict[str, Any]:
    """Return the JSON object of a text; raises InvalidRequestError, `needed` says what it is."""
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        _check_depth(value, MAX_JSON_DEPTH)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequestError(field, f"is not JSON: {reason}; it must be {needed}") from error
    if not isinstance(value, dict):
        _refuse(field, f"is a JSON {type(value).__name__}; it must be {needed}")
    return value


def tools_from_json(raw: Any) -> tuple[Tool, ...]:
    """Return the tools of a JSON list, each `{name, description, parameters}`.

    An entry may also be `{"type": "function", "function": {…}}`, as other services have it. Raises
    InvalidRequestError.
    """
    if not isinstance(raw, list):
        _refuse("chat.tools", f"is a JSON {type(raw).__name__}; it must be a list of tools")
    return tuple(_tool(entry, f"chat.tools[{index}]") for index, entry in enumerate(raw))


def _tool(raw: Any, place: str) -> Tool:
    if isinstance(raw, Mapping) and raw.keys() == {"type", "function"}:
        if raw["type"] != "function":
            _refuse(f"{place}.type", f"is {raw['type']!r}; only function is known")
        raw = raw["function"]
    if not isinstance(raw, Mapping):
        _refuse(place, f"is a JSON {type(raw).__name__}; it must be an object")
    for key in raw:
        if key not in ("name", "description", "parameters"):
            _refuse(f"{place}.{key}", "is unknown; a tool has name, description and parameters")
    for key in ("name", "parameters"):
        if key not in raw:
            _refuse(f"{place}.{key}", "is missing")
    name, description = raw["name"], raw.get("description", "")
    for key, value in (("name", name), ("description", description)):
        if not isinstance(value, str):
            _refuse(f"{place}.{key}", f"is {value!r}; it must be a string")
    return Tool(name, description, json.dumps(raw["parameters"], ensure_ascii=False))


def _check_schema(text: str, field: str) -> None:
    example = '{"type": "object", "properties": {…}}'
    if not text:
        _refuse(field, 'is empty; one without arguments has {"type": "object", "properties": {}}')
    schema = json_object(text, field, f"a JSON schema such as {example}")
    if schema.get("type") != "object":
        _refuse(field, f"has the type {schema.get('type')!r}; arguments are an object: {example}")
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not all(
        isinstance(value, (dict, bool)) for value in properties.values()
    ):
        _refuse(f"{field}.properties", "must be an object that gives each name a schema")
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        _refuse(f"{field}.required", f"is {required!r}; it must be a list of names")


def _check_depth(value: Any, left: int) -> None:
    if not isinstance(value, (dict, list)):
        return
    if left == 0:
        raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH}")
    for child in value.values() if isinstance(value, dict) else value:
        _check_depth(child, left - 1)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number that JSON can carry")


def _refuse(field: str, message: str) -> NoReturn:
    raise InvalidRequestError(field, message)
