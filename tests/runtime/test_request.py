"""A request refuses at once what no engine could do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgellama.runtime.request import InvalidRequestError, Request, Sampling, Stop


@pytest.mark.parametrize(
    ("kind", "name", "bad"),
    [
        (Sampling, "top_k", 1.5),
        (Sampling, "seed", 1.5),
        (Stop, "max_new_tokens", 2.5),
        (Stop, "min_new_tokens", 0.5),
        (Request, "top_logprobs", 1.5),
        (Request, "priority", 0.5),
        (Stop, "max_new_tokens", "8"),
    ],
)
def test_a_count_is_an_integer(kind: Any, name: str, bad: object) -> None:
    prompt = {"prompt_ids": (1,)} if kind is Request else {}
    with pytest.raises(InvalidRequestError, match="must be an integer") as caught:
        kind(**prompt, **{name: bad})
    assert caught.value.field.endswith(name)
    kind(**prompt, **{name: np.int64(3)})


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.01),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 11.0),
        ("frequency_penalty", float("nan")),
        ("seed", 2**64),
        ("seed", -1),
    ],
)
def test_a_sampling_rule_out_of_bounds_is_refused(name: str, bad: float) -> None:
    with pytest.raises(InvalidRequestError, match="it must be in") as caught:
        Sampling(**{name: bad})  # type: ignore[arg-type]
    assert caught.value.field == f"sampling.{name}"


@pytest.mark.parametrize(
    ("name", "bad", "text"),
    [
        ("priority", 101, r"is 101; it must be in \[-100, 100\]"),
        ("priority", -101, r"is -101; it must be in \[-100, 100\]"),
        ("tenant", "a" * 129, "has 129 characters; at most 128"),
        ("cache_salt", "a" * 129, "has 129 characters; at most 128"),
    ],
)
def test_what_orders_requests_has_bounds(name: str, bad: Any, text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text) as caught:
        Request((1,), **{name: bad})
    assert caught.value.field == name


def test_a_whole_limit_is_told_whole() -> None:
    with pytest.raises(InvalidRequestError, match=r"it must be in \[0, 2147483647\]"):
        Sampling(top_k=2**31)
    with pytest.raises(InvalidRequestError, match=r"it must be in \[0, 18446744073709551615\]"):
        Sampling(seed=2**64)
