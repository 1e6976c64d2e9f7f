"""The guide of an answer that must be a call; standard library only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from edgellama.runtime.guide import Guide
from edgellama.runtime.tools import Tool

# One blank where Llama's template has one and none elsewhere: a model cannot write blanks for ever.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def _compact(schema: dict[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def forced_call(tools: Sequence[Tool]) -> Guide:
    """Return the guide of one call in JSON of one of the tools, with arguments of its schema."""
    rules = ["start: " + " | ".join(f"call_{index}" for index in range(len(tools)))]
    for index, tool in enumerate(tools):
        opening = json.dumps(f'{{"name": "{tool.name}", "parameters": ')
        schema = {**json.loads(tool.parameters), "x-guidance": _SPACING}
        rules.append(f'call_{index}: {opening} arguments_{index} "}}"')
        rules.append(f"arguments_{index}: %json {_compact(schema)}")
    return Guide(grammar="\n".join(rules))
