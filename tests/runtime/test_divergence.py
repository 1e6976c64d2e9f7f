"""Divergence by hand, and against itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgellama.runtime.divergence import Divergence, row_divergence


def logits(*rows: tuple[float, ...]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return (np.log(np.array(rows)) + 3.0).astype(np.float32)


def test_a_row_by_hand() -> None:
    found = row_divergence(logits((0.5, 0.5)), logits((0.25, 0.75)))
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert found == pytest.approx([by_hand], rel=1e-6)


def test_an_impossible_token_of_the_reference_adds_nothing() -> None:
    found = row_divergence(logits((1.0, 0.0)), logits((0.5, 0.5)))
    assert found == pytest.approx([math.log(2)], rel=1e-6)


def test_the_summary() -> None:
    same, other = logits((0.7, 0.2, 0.1)), logits((0.1, 0.2, 0.7))
    divergence = Divergence()
    divergence.add(np.concatenate([same] * 3), np.concatenate([same, same, other]))
    result = divergence.as_dict()
    far = 0.6 * math.log(7)
    assert result["kl_max"] == pytest.approx(far, rel=1e-5)
    assert result["kl_mean"] == pytest.approx(far / 3, rel=1e-5)
    assert result["top1_agreement"] == pytest.approx(2 / 3)
