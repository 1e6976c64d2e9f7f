"""The error of a request that cannot be served."""

from __future__ import annotations


class InvalidRequestError(ValueError):
    """A request that cannot be served; `field` is its dotted name, for example `sampling.top_p`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
