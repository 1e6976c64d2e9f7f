"""Compile what the answers of a request must obey."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellama.runtime.request import InvalidRequestError, Request

if TYPE_CHECKING:
    from edgellama.runtime.guide_matcher import GuideMatcher
    from edgellama.runtime.text import TextCodec


def compile_rule(request: Request, codec: TextCodec) -> list[GuideMatcher | None]:
    """Return what the request's rule allows each of its outputs, None without one.

    Slow for a rule that is new, see `TextCodec.guide`. Raises InvalidRequestError.
    """
    try:
        rule = request.rule
        return [None if rule is None else codec.guide(rule) for _ in range(request.n)]
    except InvalidRequestError as error:
        if not request.must_call:
            raise
        raise InvalidRequestError(
            "tool_choice",
            f"is {request.tool_choice!r}, but no answer can be held to the schemas of the tools: "
            f"{error.message}; use auto, or other schemas",
        ) from error
