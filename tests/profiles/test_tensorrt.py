"""The table [tensorrt] refuses values that TensorRT would, and knobs that would have no effect."""

from __future__ import annotations

from typing import Any

import pytest

from edgellama.profiles.profile import ProfileError
from edgellama.profiles.tensorrt import TensorRt


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimization_level": 6}, "must be in [0, 5]"),
        ({"max_num_tactics": -2}, "must be >= -1"),
        ({"workspace_gib": -1.0}, "must be >= 0.0"),
        ({"tactic_dram_gib": 3.0}, "a power of two bytes only"),
        ({"tactic_dram_gib": float("inf")}, "a power of two bytes only"),
        ({"refit": "all"}, "supported: 'none', 'refit'"),
        ({"strip_plan": True}, "has no effect without refit"),
        ({"exclude_lean_runtime": True}, "has no effect without version_compatible"),
        ({"weight_streaming_budget_gib": 1.0}, "has no effect without weight_streaming"),
        ({"l2_limit_mib": 1.0}, "has no effect without tiling"),
    ],
)
def test_a_wrong_knob_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError) as caught:
        TensorRt(">=10.16", **values)
    assert f"tensorrt.{next(iter(values))} is " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("size", [0.0, 0.5, 1.0, 2.0, 64.0])
def test_a_power_of_two_is_taken(size: float) -> None:
    assert TensorRt(">=10.16", tactic_dram_gib=size).tactic_dram_gib == size
