"""The table of rules: what a target, a GPU or TensorRT cannot do, each with its source."""

from __future__ import annotations

from edgellama.profiles.kernel_rules import KERNEL_RULES
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.ort_rules import ORT_RULES
from edgellama.profiles.precision_rules import PRECISION_RULES
from edgellama.profiles.profile import Profile
from edgellama.profiles.rule import Rule
from edgellama.profiles.tensorrt_rules import TENSORRT_RULES

# The order is that of the errors: the device first, then its formats, then TensorRT.
RULES: tuple[Rule, ...] = (*ORT_RULES, *PRECISION_RULES, *TENSORRT_RULES, *KERNEL_RULES)


def require_support(model: ModelConfig, profile: Profile) -> None:
    """Raise ProfileError, with the rule and its source, for a wish that cannot be fulfilled."""
    for rule in RULES:
        rule.require(model, profile)
