"""Render a conversation with the chat template of the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser

from edgellama.runtime.request import InvalidRequestError
from edgellama.runtime.tools import ToolCall

ROLES = ("system", "user", "assistant", "tool")
# Bounds for a template that was written to exhaust the device.
MAX_RENDERED_CHARS = 16 * 2**20
_MAX_LOOP_ITEMS = 100_000
_MAX_REPEAT = 100_000


@dataclass(frozen=True)
class ChatMessage:
    """One message; `role` is one of ROLES.

    `tool_calls` are those that an assistant made, `tool_call_id` names the one of them that a
    message of role tool answers.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidRequestError(
                "chat", f"has a message of role {self.role!r}; the roles are {', '.join(ROLES)}"
            )


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks the answer for training; here it only shows."""

    tags = {"generation"}  # noqa: RUF012 - the name and type are jinja's

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, with a limit on repetition by `*` and none of `**`."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, (str, list, tuple)) and len(one) * other > _MAX_REPEAT:
                raise SecurityError(f"a repetition exceeds {_MAX_REPEAT} items")
        if operator == "**":
            raise SecurityError("the operator ** is not available")
        return super().call_binop(context, operator, left, right)


def _limited_range() -> Callable[..., range]:
    """Return a `range` whose uses in one rendering share one limit, so that loops cannot nest."""
    left = _MAX_LOOP_ITEMS

    def limited(*bounds: int) -> range:
        nonlocal left
        items = range(*bounds)
        left -= len(items)
        if left < 0:
            raise SecurityError(f"loops exceed {_MAX_LOOP_ITEMS} items")
        return items

    return limited


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _to_json(value: Any, indent: int | None = None) -> str:
    # jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


class ChatTemplate:
    """A jinja template with the settings and names of transformers' `apply_chat_template`.

    A template cannot reach Python's internals, and its loops over `range` and its output are
    bounded. It is still part of the engine and trusted as such: nested loops over a long message
    are not bounded.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile; raises InvalidRequestError with jinja's complaint."""
        environment = _Sandbox(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[jinja2.ext.loopcontrols, _GenerationBlock],
        )
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _strftime_now
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise InvalidRequestError(
                "chat", f"the chat template does not compile: line {error.lineno}: {error.message}"
            ) from error
        self.source = source
        # What it asks for: it could not show anything else.
        self.variables = frozenset(meta.find_undeclared_variables(environment.parse(source)))
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[ChatMessage], add_generation_prompt: bool) -> str:
        """Return the text of roles and contents, see `fill`; `Conversation` has all there is."""
        turns = [{"role": m.role, "content": m.content} for m in messages]
        return self.fill({"messages": turns}, add_generation_prompt)

    def fill(self, variables: Mapping[str, Any], add_generation_prompt: bool) -> str:
        """Return the text of a conversation, special tokens included, for `encode` without any.

        `variables` are the `messages` and what is told beside them. Raises InvalidRequestError for
        no message, for a variable that the template does not ask for, and for what it refuses.
        """
        if not variables["messages"]:
            raise InvalidRequestError("chat", "is empty; at least one message is needed")
        for name in variables:
            if name not in self.variables and name != "messages":
                raise InvalidRequestError(
                    f"chat.{name}",
                    "is not known to the chat template of this model, so it could not see it; "
                    "leave it out, or use a checkpoint whose template knows it",
                )
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(
                **{**self._special_tokens, "tools": None, "documents": None, **variables},
                add_generation_prompt=add_generation_prompt,
                range=_limited_range(),
            ):
                pieces.append(piece)
                length += len(piece)
                if length > MAX_RENDERED_CHARS:
                    raise jinja2.TemplateError(f"the text exceeds {MAX_RENDERED_CHARS} characters")
        except Exception as error:  # a template is a program: it may raise anything
            raise InvalidRequestError(
                "chat", f"the chat template refused the messages: {error}"
            ) from error
        return "".join(pieces)
