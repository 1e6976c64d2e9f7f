"""The forms in which Llama 3 writes calls of tools; standard library only.

=================  ================================================================  ==============
form               for example                                                       trained into
=================  ================================================================  ==============
JSON               `{"name": "f", "parameters": {"x": 1}}`                           3.1, 3.2, 3.3
built-in           `brave_search.call(query="x")`                                    3.1, 3.3
function tag       `<function=f>{"x": 1}</function>`                                 3.1, by prompt
list of calls      `[f(x=1), g(y="z")]`                                              3.2, 3.3
=================  ================================================================  ==============

Their readers (see `runtime.literals`) know the names of the tools on offer and refuse any other.
"""

from __future__ import annotations

from collections.abc import Collection

from edgellama.runtime.literals import (
    Mismatch,
    Reader,
    exactly,
    json_object,
    keyword_arguments,
    next_char,
    one_of,
)

# The name of a tool and its arguments, a JSON object.
Call = tuple[str, str]

BLANKS = frozenset(" \t\n\r")
SEPARATORS = BLANKS | {";"}  # between two calls


def calls(
    names: Collection[str], builtin: Collection[str], before: Collection[str] = BLANKS
) -> Reader[list[Call]]:
    """Read what may stand in place of an answer's text: a call in any form, or a list of them.

    `names` are the tools called by name, `builtin` those of them that the model knows itself.
    The characters `before` it are passed over.
    """
    char = yield
    while char in before:
        char = yield
    if char == "{":
        return [(yield from _json_call(names))]
    if char == "[":
        return (yield from _call_list(names))
    if char == "<":
        return [(yield from function_call(names))]
    if not char:
        raise Mismatch
    called = yield from one_of([f"{name}.call" for name in builtin], "(", char)
    return [(called[: -len(".call")], (yield from keyword_arguments()))]


def only_calls(text: str, names: Collection[str], builtin: Collection[str]) -> list[Call]:
    """Return the calls of a text that holds nothing else, and none of any other."""
    found: list[Call] = []
    is_between = True
    reader = calls(names, builtin)
    next(reader)
    for char in [*text, ""]:
        if is_between and not char:
            break
        try:
            reader.send(char)
            is_between = is_between and char in SEPARATORS
        except StopIteration as complete:
            found += complete.value
            is_between = True
            reader = calls(names, builtin, SEPARATORS)
            next(reader)
        except Mismatch:
            return []
    return found


def function_call(names: Collection[str]) -> Reader[Call]:
    """Read a call in a function tag behind its `<`; the end of the answer closes the tag too."""
    yield from exactly("function=")
    name = yield from one_of(names, ">")
    if (yield from next_char()) != "{":
        raise Mismatch
    arguments = yield from json_object()
    char = yield from next_char()
    if char == "<":
        yield from exactly("/function>")
    elif char:
        raise Mismatch
    return name, arguments


def _json_call(names: Collection[str]) -> Reader[Call]:
    """Read an object of a name and parameters behind its brace; `type` may say it is a function."""
    name = arguments = ""
    keys = {"type", "name", "parameters", "arguments"}  # those that may still come
    while True:
        if (yield from next_char()) != '"':
            raise Mismatch
        key = yield from one_of(keys, '"')
        keys -= {"parameters", "arguments"} if key in ("parameters", "arguments") else {key}
        if (yield from next_char()) != ":":
            raise Mismatch
        if (yield from next_char()) != ("{" if key in ("parameters", "arguments") else '"'):
            raise Mismatch
        if key == "type":
            yield from one_of(("function",), '"')
        elif key == "name":
            name = yield from one_of(names, '"')
        else:
            arguments = yield from json_object()
        char = yield from next_char()
        if char == "}" and name and arguments:
            return name, arguments
        if char != ",":
            raise Mismatch


def _call_list(names: Collection[str]) -> Reader[list[Call]]:
    """Read a list of calls with keyword arguments, as in Python, behind its bracket."""
    found: list[Call] = []
    char = yield from next_char()
    while char != "]" or not found:
        if not char:
            raise Mismatch
        name = yield from one_of(names, "(", char)
        found.append((name, (yield from keyword_arguments())))
        char = yield from next_char()
        if char == ",":
            char = yield from next_char()
        elif char != "]":
            raise Mismatch
    return found
