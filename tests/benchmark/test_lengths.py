"""The lengths of requests, and the requests made of them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.benchmark.chat_lengths import chat_list, shared_prefix_list
from edgellama.benchmark.lengths import LISTS, Lengths, LengthsError, Pair, lengths_by_name
from edgellama.benchmark.workload import Workload

FOLDER = Path(__file__).resolve().parents[2] / "benchmark" / "lengths"
COUNTS = st.integers(1, 3000)


def pairs() -> st.SearchStrategy[Pair]:
    own = st.builds(Pair, COUNTS, COUNTS)
    shared = st.builds(Pair, COUNTS, COUNTS, st.integers(0, 3), COUNTS)
    return st.one_of(own, shared)


def test_a_fixed_pair() -> None:
    assert lengths_by_name("1024/128").pairs == (Pair(1024, 128),)


@pytest.mark.parametrize("name", ["0/8", "8/0", "8", "8/8/8", "-8/8", "news", "", "8/8 "])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(LengthsError, match="shared-prefix"):
        lengths_by_name(name)


def test_the_lists_are_what_their_generator_draws() -> None:
    assert (FOLDER / "chat.csv").read_text(encoding="utf-8") == chat_list()
    assert (FOLDER / "shared-prefix.csv").read_text(encoding="utf-8") == shared_prefix_list()


def test_chats_have_the_medians_and_a_tail() -> None:
    chat = lengths_by_name("chat").pairs
    assert len(chat) == 200
    assert median(pair.prompt for pair in chat) == pytest.approx(100, rel=0.15)
    assert median(pair.output for pair in chat) == pytest.approx(180, rel=0.15)
    assert max(pair.prompt for pair in chat) > 1000 and max(pair.output for pair in chat) > 800


def test_three_of_four_requests_share_a_prefix() -> None:
    mix = lengths_by_name("shared-prefix").pairs
    assert sum(pair.prefix is not None for pair in mix) == 150
    assert {pair.prefix for pair in mix} == {None, 1, 2, 3}


@given(pairs(), st.integers(2, 4000))
def test_a_clipped_pair_fits_and_a_fitting_one_stays(pair: Pair, capacity: int) -> None:
    clipped = pair.clipped(capacity)
    assert clipped.tokens <= capacity
    assert (clipped == pair) == (pair.tokens <= capacity)
    if pair.tokens > capacity:
        assert clipped.tokens == capacity, "no room is wasted"


def test_what_was_clipped_is_reported() -> None:
    given_ = Lengths("mine", (Pair(8, 8), Pair(100, 8), Pair(8, 100)))
    assert given_.within(32).as_dict() == {
        "pairs": 3,
        "clipped": 2,
        "capacity": 32,
        "prompt_tokens_mean": 13.3,  # 8, 24 and 8
        "output_tokens_mean": 13.3,  # 8, 8 and 24
    }
    assert given_.within(200).clipped == 0


def test_a_capacity_of_one_token_is_refused() -> None:
    with pytest.raises(LengthsError, match="capacity is 1"):
        lengths_by_name("chat").within(1)


@pytest.mark.parametrize("name", [*LISTS, "16/4"])
def test_jobs_have_the_lengths_and_ids_of_the_vocabulary(name: str) -> None:
    lengths = lengths_by_name(name).within(256)
    jobs = list(islice(Workload(lengths, 300, 1).jobs("here"), len(lengths.pairs)))
    sent = sorted((len(job.prompt_ids), job.output_tokens) for job in jobs)
    wanted = sorted((p.prefix_tokens + p.prompt, p.output) for p in lengths.pairs)
    assert sent == wanted
    assert all(0 <= token < 300 for job in jobs for token in job.prompt_ids)


def test_points_have_the_same_lengths_and_other_tokens() -> None:
    workload = Workload(lengths_by_name("chat"), 1000, 5)
    here, again, there = (list(islice(workload.jobs(p), 20)) for p in ("a", "a", "b"))
    assert here == again
    assert [len(j.prompt_ids) for j in here] == [len(j.prompt_ids) for j in there]
    assert not {j.prompt_ids for j in here} & {j.prompt_ids for j in there}
    other = list(islice(Workload(workload.lengths, 1000, 6).jobs("a"), 20))
    assert [len(j.prompt_ids) for j in other] != [len(j.prompt_ids) for j in here]


def test_requests_of_a_prefix_begin_alike_at_every_point() -> None:
    mix = Lengths("mix", (Pair(5, 1, 1, 30), Pair(9, 1, 1, 20), Pair(5, 1, 2, 30), Pair(5, 1)))
    workload = Workload(mix, 5000, 1)
    starts: dict[int, set[tuple[int, ...]]] = {}
    for point in ("a", "b"):
        for job in islice(workload.jobs(point), 4):
            starts.setdefault(len(job.prompt_ids), set()).add(job.prompt_ids[:20])
    long, short = starts[35], starts[29]
    assert len(long) == 2 and len(short) == 1 and short < long
    assert len(starts[5]) == 2, "a request without a prefix shares nothing"
