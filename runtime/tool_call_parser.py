"""Tell calls of tools from the text of an answer as it appears; standard library only."""

from __future__ import annotations

import json
import secrets
from collections import deque

from edgellama.runtime.call_forms import (
    BLANKS,
    SEPARATORS,
    Call,
    calls,
    function_call,
    only_calls,
)
from edgellama.runtime.literals import Mismatch, Reader
from edgellama.runtime.tools import CODE_INTERPRETER, ToolCall, Toolset

PYTHON_TAG = "<|python_tag|>"
END_OF_MESSAGE = "<|eom_id|>"


class ToolCallParser:
    """Cuts an answer into text and calls, whatever the answer is and however it is cut.

    Calls stand at the beginning of an answer, behind the python tag, and behind another call; a
    function tag also behind text. Only the tools on offer are called: what is anything else, cut
    short or ill-formed is text, every character of it. With the code interpreter on offer, all
    that follows the python tag is its program unless it is calls and nothing else.

    Text that may yet become a call is held back, and no longer: what the pieces hold is a prefix
    of a call. The time is linear in the text.
    """

    def __init__(self, toolset: Toolset) -> None:
        self._names = toolset.names
        self._builtin = toolset.builtin_tools
        self._runs_code = CODE_INTERPRETER in toolset.builtin_tools
        self._program: list[str] | None = None  # all behind the python tag, where it may be one
        self._tags: deque[int] = deque()  # characters before each tag that is still to come
        self._characters = 0
        self._reader: Reader[list[Call]] | Reader[Call] | None  # None: text, which holds no call
        self._held: list[str] = []  # what the reader has read
        self._is_behind_call = False
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self.num_calls = 0
        """Calls given out so far."""
        self._expect_calls()

    def tag(self, behind: int = 0) -> None:
        """Take a python tag that stands `behind` characters after the text pushed so far."""
        self._tags.append(self._characters + behind)

    def push(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """Take text; returns the text and the calls that are now certain."""
        for char in text:
            self._take_tags()
            self._characters += 1
            self._take(char)
        return self._taken()

    def finish(self, *, is_cut: bool) -> tuple[str, tuple[ToolCall, ...]]:
        """Return what was held back; of an answer that `is_cut` no program is run."""
        self._take_tags()
        if self._program is not None:
            self._end_program(is_cut)
        elif self._is_behind_call and SEPARATORS.issuperset(self._held):
            self._held.clear()  # what ends a call belongs to it
        elif self._reader is not None:
            self._take("")
        return self._taken()

    def _take_tags(self) -> None:
        while self._tags and self._tags[0] <= self._characters:
            self._tags.popleft()
            if self._program is not None:
                continue
            if not SEPARATORS.issuperset(self._held):
                self._release()
            self._expect_calls()
            if self._runs_code:
                self._program = []

    def _expect_calls(self) -> None:
        before = SEPARATORS if self._is_behind_call else BLANKS
        self._reader = calls(self._names, self._builtin, before)
        next(self._reader)

    def _take(self, char: str) -> None:
        """Take a character, or "" for the end."""
        if self._program is not None:
            self._program.append(char)
            return
        if self._reader is None:
            if char != "<":
                self._text.append(char)
                return
            self._reader = function_call(self._names)
            next(self._reader)
            self._held.append(char)
            return
        try:
            self._held.append(char)
            self._reader.send(char)
        except StopIteration as complete:
            found = complete.value
            for call in found if isinstance(found, list) else [found]:
                self._give(call)
            self._held.clear()
            self._is_behind_call = True
            self._expect_calls()
        except Mismatch:
            self._held.pop()
            self._release()
            if char:  # it may begin a function tag
                self._take(char)

    def _release(self) -> None:
        """Make text of what was held back."""
        self._text += self._held
        self._held.clear()
        self._reader = None
        self._is_behind_call = False

    def _give(self, call: Call) -> None:
        name, arguments = call
        self._calls.append(ToolCall(name, arguments, f"call_{secrets.token_hex(12)}"))
        self.num_calls += 1

    def _end_program(self, is_cut: bool) -> None:
        program = "".join(self._program or ())
        found = only_calls(program, self._names, self._builtin)
        if not found and program.strip() and not is_cut:
            code = json.dumps({"code": program}, ensure_ascii=False)
            found.append((CODE_INTERPRETER, code))
        if not found:
            self._text += [*self._held, program]
        for call in found:
            self._give(call)
        self._held.clear()

    def _taken(self) -> tuple[str, tuple[ToolCall, ...]]:
        text, found = "".join(self._text), tuple(self._calls)
        self._text.clear()
        self._calls.clear()
        return text, found
