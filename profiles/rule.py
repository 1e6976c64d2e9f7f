"""One rule that a profile must keep: what it checks, and who says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgellama.profiles.bounds import ProfileError
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Profile


@dataclass(frozen=True)
class Rule:
    """`check` returns what is wrong with a model on a profile (field, value, limit, what to do), or
    None; `source` is the document or the measurement that the rule is from."""

    name: str
    source: str
    check: Callable[[ModelConfig, Profile], str | None]

    def require(self, model: ModelConfig, profile: Profile) -> None:
        """Raise ProfileError, with the rule and its source, unless the profile keeps it."""
        text = self.check(model, profile)
        if text is not None:
            raise ProfileError(
                f"profile {profile.name}: {text} [rule {self.name}; source: {self.source}]"
            )


def linear_inputs(model: ModelConfig) -> tuple[tuple[str, int], ...]:
    """Return what the inputs of the linears are called, and how many each has."""
    return (
        ("hidden_size", model.hidden_size),
        ("the attention's width", model.query_size),
        ("intermediate_size", model.intermediate_size),
    )
