"""A conversation on the terminal: whose turn it is, and what a line means."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.tools import ToolCall


class Talk:
    """The messages so far; behind calls of tools the next lines are their results, one each."""

    def __init__(self, system: str | None) -> None:
        self.messages = [] if system is None else [ChatMessage("system", system)]
        self._called: deque[ToolCall] = deque()  # without a result yet

    def hear(self, line: str) -> bool:
        """Take a line of input; returns whether the model is to answer now."""
        if not self._called:
            self.messages.append(ChatMessage("user", line))
            return True
        call = self._called.popleft()
        self.messages.append(ChatMessage("tool", line, tool_call_id=call.id))
        return not self._called

    def answered(self, text: str, calls: Sequence[ToolCall]) -> None:
        """Take what the model said."""
        self.messages.append(ChatMessage("assistant", text, tuple(calls)))
        self._called.extend(calls)
