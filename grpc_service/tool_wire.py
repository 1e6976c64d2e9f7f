"""Tools and their calls: from the wire to the engine's records, and the way back."""

from __future__ import annotations

from edgellama.grpc_service import generation_pb2 as pb
from edgellama.runtime.tools import Tool, ToolCall, Toolset


def toolset_from_wire(chat: pb.Chat) -> Toolset | None:
    """Return the tools on offer, None where there are none; raises InvalidRequestError."""
    in_user_message = chat.HasField("tools_in_user_message")
    if not chat.tools and not chat.builtin_tools and not in_user_message:
        return None
    return Toolset(
        tuple(Tool(tool.name, tool.description, tool.parameters) for tool in chat.tools),
        tuple(chat.builtin_tools),
        chat.tools_in_user_message if in_user_message else None,
    )


def tool_to_wire(tool: Tool) -> pb.Tool:
    """Return the message of a tool."""
    return pb.Tool(name=tool.name, description=tool.description, parameters=tool.parameters)


def call_from_wire(message: pb.ToolCall) -> ToolCall:
    """Return the call of a message."""
    return ToolCall(message.name, message.arguments, message.id)


def call_to_wire(call: ToolCall) -> pb.ToolCall:
    """Return the message of a call."""
    return pb.ToolCall(id=call.id, name=call.name, arguments=call.arguments)
