"""docs/profiles.md says of every shipped profile and rule what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest
from llamas import MODELS

from edgellama.profiles.plan import GIB, require_fit
from edgellama.profiles.profile import gpu_names, load_profile, profile_names
from edgellama.profiles.rule import Rule
from edgellama.profiles.rules import RULES
from edgellama.profiles.tensorrt import TensorRt

TEXT = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text(encoding="utf-8")


def row_of(section: str, name: str) -> list[str]:
    lines = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0].splitlines()
    (line,) = (line for line in lines if line.startswith(f"| `{name}` |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.mark.parametrize("name", profile_names())
def test_the_row_of_a_profile(name: str) -> None:
    profile = load_profile(name)
    gpu, slo = profile.device.gpu, profile.slo
    if gpu is None:
        assert row_of("The shipped ones", name)
        return
    plan = require_fit(MODELS[profile.model], profile)
    assert plan.ceiling is not None and slo is not None
    first, full = plan.ceiling.first, plan.ceiling.full
    assert row_of("The shipped ones", name) == [
        gpu.name,
        profile.build.target,
        f"{profile.precision.weights}, {profile.precision.compute}",
        f"{plan.slots} \N{MULTIPLICATION SIGN} {plan.capacity}",
        f"{plan.total_bytes / GIB:.1f} of {profile.device.memory_gib:g}",
        f"{first.ms:.1f} ms, {first.tokens_per_s:.0f}/s",
        f"{full.ms:.1f} ms, {full.tokens_per_s:.0f}/s",
        f"{slo.ttft_ms:g}, {slo.itl_ms:g}",
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_row_of_a_rule(rule: Rule) -> None:
    assert row_of("What is refused", rule.name)[1] == rule.source


def test_every_gpu_and_every_knob_is_named() -> None:
    assert f"# {', '.join(gpu_names())}\n" in TEXT
    for knob in TensorRt.__dataclass_fields__:
        assert f"`{knob}`" in TEXT
