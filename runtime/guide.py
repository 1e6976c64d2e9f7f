"""What the text of an answer must be, as a rule instead of a request; standard library only."""

from __future__ import annotations

from dataclasses import dataclass, fields

from edgellama.runtime.invalid_request import InvalidRequestError

MAX_GUIDE_CHARS = 65_536
MAX_CHOICES = 1_024


@dataclass(frozen=True)
class Guide:
    """One rule that the whole text of an answer obeys; exactly one field is set.

    `json_schema` is the text of a JSON schema, `regex` a regular expression (Rust's syntax: no
    look-around, no back references), `grammar` a context-free grammar in Lark's syntax, `choices`
    texts of which the answer is one.
    """

    json_schema: str | None = None
    regex: str | None = None
    grammar: str | None = None
    choices: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        given = self._given()
        if len(given) != 1:
            names = ", ".join(field.name for field in fields(self))
            found = f"has {' and '.join(given)}" if given else "is empty"
            raise InvalidRequestError("guide", f"{found}; give exactly one of {names}")
        name = given[0]
        if self.choices is not None and not 1 <= len(self.choices) <= MAX_CHOICES:
            raise InvalidRequestError(
                "guide.choices", f"has {len(self.choices)} entries; it needs 1 to {MAX_CHOICES}"
            )
        texts = self.choices if self.choices is not None else (getattr(self, name),)
        if not all(texts):
            raise InvalidRequestError(f"guide.{name}", "has an empty text; each needs a character")
        size = sum(map(len, texts))
        if size > MAX_GUIDE_CHARS:
            raise InvalidRequestError(
                f"guide.{name}", f"has {size} characters; at most {MAX_GUIDE_CHARS}"
            )

    @property
    def field(self) -> str:
        """The dotted name of the field that is set."""
        return f"guide.{self._given()[0]}"

    def _given(self) -> list[str]:
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]
