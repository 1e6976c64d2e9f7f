"""Sampling against a plain reference that sorts the whole vocabulary in float64."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.runtime.draw import draw as draw_in
from edgellama.runtime.largest import largest
from edgellama.runtime.request import InvalidRequestError, Sampling
from edgellama.runtime.sampling import Draw, Sampler, SamplingState, effective_seed, uniform
from edgellama.runtime.weights import Room

Rows = npt.NDArray[np.float32]
GREEDY = Sampling(temperature=0.0)


def state(
    sampling: Sampling,
    prompt: tuple[int, ...] = (),
    seed: int = 0,
    banned: tuple[int, ...] = (),
    min_new_tokens: int = 0,
    top_logprobs: int | None = None,
) -> SamplingState:
    return SamplingState(
        sampling,
        prompt,
        seed,
        banned_until_min=banned,
        min_new_tokens=min_new_tokens,
        top_logprobs=top_logprobs,
    )


def make_logits(rows: int, vocab: int, seed: int, spread: float = 3.0) -> Rows:
    scores = np.random.default_rng(seed).standard_normal((rows, vocab)) * spread
    logits = scores.astype(np.float32)
    logits.flags.writeable = False  # the buffer belongs to the backend
    return logits


def adjusted_reference(
    raw: Rows, rules: Sampling, prompt: list[int], output: list[int], banned: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    scores = raw.astype(np.float64)
    for token, bias in rules.logit_bias.items():
        scores[token] += bias
    for token in set(prompt) | set(output):
        scores[token] *= (
            1 / rules.repetition_penalty if scores[token] > 0 else rules.repetition_penalty
        )
    for token in set(output):
        scores[token] -= rules.presence_penalty + rules.frequency_penalty * output.count(token)
    for token in banned:
        scores[token] = -np.inf
    return scores


def distribution(scores: npt.NDArray[np.float64], rules: Sampling) -> npt.NDArray[np.float64]:
    """Probabilities [vocab] after temperature, top-k, top-p and min-p."""
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    scaled = np.exp((scores - scores.max()) / rules.temperature)
    keep = order[: rules.top_k] if rules.top_k else order
    if rules.top_p < 1:
        mass, total, nucleus = 0.0, scaled[keep].sum(), []
        for token in keep:
            nucleus.append(token)
            mass += scaled[token]
            if mass >= rules.top_p * total:
                break
        keep = nucleus
    keep = [token for token in keep if scaled[token] >= rules.min_p]
    masked = np.zeros(len(scores))
    masked[keep] = scaled[keep]
    return masked / masked.sum()


def agrees(token: int, scores: npt.NDArray[np.float64], rules: Sampling, share: float) -> bool:
    """Whether `share` falls on `token` in the reference, but for rounding at a border."""
    slack = 1e-5
    for nudge in (0.0, -1e-6, 1e-6):
        near = replace(
            rules,
            top_p=rules.top_p if rules.top_p == 1 else min(max(rules.top_p + nudge, 1e-9), 1.0),
            min_p=rules.min_p * (1 + nudge),
        )
        probabilities = distribution(scores, near)
        high = np.cumsum(probabilities)[token]
        low = high - probabilities[token]
        if probabilities[token] > 0 and low - slack <= share <= high + slack:
            return True
    return False


rule_sets = st.builds(
    Sampling,
    temperature=st.sampled_from([0.2, 0.7, 1.0, 1.5, 30.0]),
    top_k=st.sampled_from([0, 1, 3, 50, 400, 10**6]),
    top_p=st.sampled_from([1.0, 0.97, 0.9, 0.31, 0.011]),
    min_p=st.sampled_from([0.0, 0.03, 0.4, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.6]),
    presence_penalty=st.sampled_from([0.0, 1.7, -0.4]),
    frequency_penalty=st.sampled_from([0.0, 0.9, -0.6]),
    logit_bias=st.dictionaries(st.integers(0, 6), st.sampled_from([-50.0, 2.5, 9.0]), max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(
    rules=rule_sets,
    vocab=st.sampled_from([7, 300, 5003]),
    seed=st.integers(0, 2**64 - 1),
    prompt=st.lists(st.integers(0, 6), max_size=8),
    min_new_tokens=st.integers(0, 3),
)
def test_every_draw_matches_the_reference(
    rules: Sampling, vocab: int, seed: int, prompt: list[int], min_new_tokens: int
) -> None:
    sampler = Sampler(vocab)
    running = state(rules, tuple(prompt), seed, banned=(1, 2), min_new_tokens=min_new_tokens)
    output: list[int] = []
    for position in range(5):
        logits = make_logits(1, vocab, seed % 2**32 + position)
        [draw] = sampler.sample(logits, [running])
        banned = (1, 2) if position < min_new_tokens else ()
        scores = adjusted_reference(logits[0], rules, prompt, output, banned)
        assert agrees(draw.token, scores, rules, uniform(seed, position))
        output.append(draw.token)
    assert running.position == 5


@pytest.mark.parametrize("spread", [0.01, 0.5, 4.0])
@pytest.mark.parametrize("top_p", [0.2, 0.9, 0.9999])
def test_a_nucleus_of_any_width_matches_the_reference(spread: float, top_p: float) -> None:
    vocab = 20_011
    rules = Sampling(top_p=top_p)
    sampler = Sampler(vocab)
    for seed in range(4):
        logits = make_logits(1, vocab, seed, spread)
        [draw] = sampler.sample(logits, [state(rules, seed=seed)])
        assert agrees(draw.token, logits[0].astype(np.float64), rules, uniform(seed, 0))


@settings(max_examples=30, deadline=None)
@given(
    many=st.lists(rule_sets, min_size=2, max_size=6),
    vocab=st.sampled_from([5, 333, 4099]),
    order_seed=st.randoms(use_true_random=False),
)
def test_neighbours_and_row_order_change_nothing(
    many: list[Sampling], vocab: int, order_seed: object
) -> None:
    many = [
        replace(rules, logit_bias={t: b for t, b in rules.logit_bias.items() if t < vocab})
        for rules in many
    ]
    many[0] = GREEDY
    sampler = Sampler(vocab)

    def run(order: list[int]) -> dict[int, list[Draw]]:
        states = {row: state(many[row], (1, 2), seed=row, top_logprobs=2) for row in order}
        draws: dict[int, list[Draw]] = {row: [] for row in order}
        for step in range(3):
            logits = make_logits(len(many), vocab, step)[order]
            for row, draw in zip(order, sampler.sample(logits, list(states.values())), strict=True):
                draws[row].append(draw)
        return draws

    together = run(list(range(len(many))))
    shuffled = list(range(len(many)))
    order_seed.shuffle(shuffled)  # type: ignore[attr-defined]
    assert run(shuffled) == together
    for row in range(len(many)):
        assert run([row])[row] == together[row]  # logprobs equal to the last bit as well


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    logits = np.array([[1, 3, 3, 2], [5, 5, 5, 5]], np.float32)
    draws = Sampler(4).sample(logits, [state(GREEDY), state(GREEDY)])
    assert [draw.token for draw in draws] == [1, 0]


@pytest.mark.parametrize(
    "rules",
    [
        Sampling(top_k=1, temperature=5.0),
        Sampling(top_p=1e-9, temperature=5.0),
        Sampling(min_p=1.0, temperature=5.0),
        Sampling(temperature=1e-6),
        Sampling(temperature=5e-324),
        Sampling(temperature=0.0, top_k=7, top_p=0.5, seed=3),
    ],
)
def test_narrow_rules_equal_greedy(rules: Sampling) -> None:
    logits = make_logits(6, 5003, 1)
    draws = Sampler(5003).sample(logits, [state(rules, seed=row) for row in range(6)])
    assert [draw.token for draw in draws] == logits.argmax(axis=1).tolist()


def test_frequencies_follow_the_probabilities() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    running = state(Sampling(), seed=12345)
    sampler = Sampler(4)
    count = 4000
    drawn = [sampler.sample(logits, [running])[0].token for _ in range(count)]
    expected = np.array([0.5, 0.3, 0.15, 0.05]) * count
    chi_square = ((np.bincount(drawn, minlength=4) - expected) ** 2 / expected).sum()
    assert chi_square < 16.3  # 3 degrees of freedom, p = 0.001; the seed is fixed


def test_uniform_numbers_are_even_and_unrelated() -> None:
    numbers = np.array([[uniform(seed, position) for position in range(64)] for seed in range(64)])
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.histogram(numbers, bins=16, range=(0, 1))[0]
    assert ((counts - 256.0) ** 2 / 256).sum() < 37.7  # 15 degrees of freedom, p = 0.001
    assert len(np.unique(numbers)) == numbers.size
    for other in (numbers[1:, :], numbers[:-1, :]):
        assert abs(np.corrcoef(numbers[:-1, 1:].ravel(), other[:, :-1].ravel())[0, 1]) < 0.06
    assert uniform(7, 3) == uniform(7, 3)
    # Plain splitmix64 would make one seed's stream another's, one step later.
    assert uniform(7 + 0x9E3779B97F4A7C15, 0) != uniform(7, 1)
    assert 0 <= uniform(2**64 - 1, 10**6) < 1


@pytest.mark.parametrize(
    ("rules", "prompt", "expected"),
    [
        (Sampling(temperature=0.0, frequency_penalty=1.0), (), [0, 0, 0, 0, 1]),
        (Sampling(temperature=0.0, presence_penalty=4.0), (), [0, 1, 0, 0, 0]),
        (Sampling(temperature=0.0, repetition_penalty=4.0), (), [0, 1, 0, 0, 0]),
        (Sampling(temperature=0.0, repetition_penalty=4.0), (0,), [1, 0, 0, 0, 0]),
        (Sampling(temperature=0.0, presence_penalty=4.0), (0,), [0, 1, 0, 0, 0]),
    ],
)
def test_penalties_by_hand(rules: Sampling, prompt: tuple[int, ...], expected: list[int]) -> None:
    running = state(rules, prompt)
    logits = np.array([[3, 1 if rules.repetition_penalty > 1 else 0, -9]], np.float32)
    assert [Sampler(3).sample(logits, [running])[0].token for _ in range(5)] == expected


def draw_at(scores: Rows, rules: Sampling, share: float) -> int:
    """Draw in a room of its own."""
    return draw_in(scores, rules, share, Room(len(scores)))


def test_what_was_drawn_in_a_room_before_does_not_matter() -> None:
    vocab = 5003
    room = Room(vocab)
    rules = [
        Sampling(temperature=0.6, top_p=0.9),  # wide in flat scores, narrow in steep ones
        Sampling(top_k=50, top_p=0.95),
        Sampling(temperature=5.0, min_p=0.05),
        Sampling(),
    ]
    for seed in range(20):
        scores = make_logits(1, vocab, seed)[0] * np.float32(0.1 if seed % 2 else 1.0)
        scores[seed::7] = -np.inf
        for each in rules:
            assert draw_in(scores, each, 0.6, room) == draw_at(scores, each, 0.6)


def test_top_p_counts_shares_of_what_top_k_left() -> None:
    scores = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    # 0.4 of 0.7 is more than half, of 1.0 it is not.
    assert draw_at(scores, Sampling(top_k=2, top_p=0.5), 0.999) == 0
    assert draw_at(scores, Sampling(top_p=0.5), 0.999) == 1
    # min-p is a share of the largest probability: 0.4 * 0.6 lies between 0.2 and 0.3.
    assert draw_at(scores, Sampling(min_p=0.6), 0.999) == 1


@pytest.mark.parametrize("vocab", [3, 255, 256, 257, 512, 700])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1 - 2.0**-53, 1.0])
def test_no_share_reaches_a_token_of_weight_zero(vocab: int, share: float) -> None:
    for alive in ([0], [vocab // 2], [vocab - 1], [1, vocab - 2]):
        scores = np.full(vocab, -np.inf, np.float32)
        scores[alive] = np.array([0.1, 0.7], np.float32)[: len(alive)]
        for rules in (Sampling(), Sampling(top_p=0.999), Sampling(min_p=0.001)):
            assert draw_at(scores, rules, share) in alive
    even = np.zeros(vocab, np.float32)
    assert draw_at(even, Sampling(), share) == min(int(share * vocab), vocab - 1)


def test_min_new_tokens_bans_and_then_allows_stop_ids() -> None:
    logits = np.array([[9, 1, 8, 2]], np.float32)
    running = state(GREEDY, banned=(0, 2, 900), min_new_tokens=2)
    tokens = [Sampler(4).sample(logits, [running])[0].token for _ in range(3)]
    assert tokens == [3, 3, 0]


def test_extreme_rules_keep_scores_finite() -> None:
    rules = Sampling(
        temperature=0.5,
        repetition_penalty=1e-300,
        presence_penalty=10.0,
        logit_bias=MappingProxyType({1: 1000.0}),
    )
    logits = np.array([[3e38, -3e38, 0, 1]], np.float32)
    running = state(rules, (0, 1, 2))
    tokens = [Sampler(4).sample(logits, [running])[0].token for _ in range(4)]
    assert set(tokens) <= {0, 1, 2, 3} and tokens[0] == 0


def test_logprobs_are_the_raw_log_softmax_in_falling_order() -> None:
    logits = make_logits(1, 5003, 4)
    rules = Sampling(temperature=0.3, top_k=5, logit_bias={17: 100.0})
    [draw] = Sampler(5003).sample(logits, [state(rules, top_logprobs=20)])
    exact = logits[0].astype(np.float64)
    exact -= np.log(np.exp(exact).sum())
    assert draw.token == 17 and draw.logprobs is not None
    assert draw.logprobs.chosen == pytest.approx(exact[17], abs=1e-5)
    assert [token for token, _ in draw.logprobs.top] == np.argsort(-exact)[:20].tolist()
    values = [value for _, value in draw.logprobs.top]
    assert values == sorted(values, reverse=True)
    np.testing.assert_allclose(values, np.sort(exact)[::-1][:20], atol=1e-5)
    [chosen_only] = Sampler(5003).sample(logits, [state(rules, top_logprobs=0)])
    assert chosen_only.logprobs is not None and chosen_only.logprobs.top == ()
    [silent] = Sampler(5003).sample(logits, [state(rules)])
    assert silent.logprobs is None


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_broken_logits_name_their_row_and_leave_the_states(poison: float) -> None:
    logits = make_logits(3, 300, 0).copy()
    logits[1, 200] = poison
    states = [state(GREEDY), state(Sampling()), state(Sampling())]
    with pytest.raises(ValueError, match="row 1"):
        Sampler(300).sample(logits, states)
    assert [one.position for one in states] == [0, 0, 0]


def test_the_end_of_a_wide_nucleus() -> None:
    """Equal weights at its end, a sample that misleads, and weights that are all alike."""
    vocab = 128_256
    draws = np.random.default_rng(8)
    flat = draws.standard_normal(vocab).astype(np.float32)
    steps = np.round(flat, 1)  # thousands of equal scores
    alike = np.zeros(vocab, np.float32)
    hidden = np.full(vocab, -2.0, np.float32)
    hidden[1::2] = 0.0  # no place of the sample, every 31st, tells of the odd ones alone
    stripes = np.where(np.arange(vocab) % 31 == 0, np.float32(5.0), np.float32(0.0))
    for scores in (flat, steps, alike, hidden, stripes):
        for top_p in (0.3, 0.9, 0.999):
            for share in (0.0, 0.5, 0.999999):
                rules = Sampling(temperature=1.0, top_p=top_p)
                order = np.argsort(-scores, kind="stable")
                weights = np.exp(scores - scores.max()).astype(np.float32)
                reached = np.cumsum(weights[order], dtype=np.float64)
                mass = top_p * float(weights.sum(dtype=np.float64))
                kept = np.sort(order[: int(np.searchsorted(reached, mass * (1 - 1e-9))) + 1])
                inside = np.cumsum(weights[kept], dtype=np.float64)
                place = int(np.searchsorted(inside, share * inside[-1], "right"))
                token = draw_at(scores, rules, share)
                # Sums in another order differ in their last bits: a neighbour may be meant.
                near = kept[max(0, place - 1) : place + 2]
                assert token in near, (top_p, share)


def test_a_nucleus_near_the_peak_counts_the_light_rest() -> None:
    """The ends of nuclei that only the weights far below the peak decide."""
    vocab = 128_256
    room = Room(vocab)
    draws = np.random.default_rng(3)
    scores = np.full(vocab, -21.0, np.float32)  # each 8e-10 of the peak's, all together 1e-4
    heavy = draws.choice(vocab, 40, replace=False)
    scores[heavy] = -np.arange(40, dtype=np.float32) / 8
    weights = np.exp(scores.astype(np.float64))
    found = float(weights[heavy].sum())
    rest = float(weights.sum()) - found
    reached = np.cumsum(weights[heavy])
    for size in (1, 2, 7, 20):
        for part, kept in ((0.5, size + 1), (1.5, size), (-1.0, size + 1), (3.0, size)):
            # As a share of what is near the peak too large or too small by a part of the rest.
            top_p = float(reached[size - 1]) / (found + part * rest)
            rules = Sampling(temperature=1.0, top_p=top_p)
            ids = np.sort(heavy[:kept])
            ends = np.cumsum(weights[ids]) / weights[ids].sum()
            middles = ends - weights[ids] / weights[ids].sum() / 2
            tokens = [draw_in(scores, rules, share, room) for share in middles]
            assert tokens == ids.tolist(), (size, part)


@pytest.mark.parametrize("min_p", [0.9, 0.2, 0.001, 1e-12])
def test_min_p_keeps_what_it_keeps_of_all_weights(min_p: float) -> None:
    scores = make_logits(1, 20_011, 4)[0]
    kept = np.flatnonzero(np.exp(scores - scores.max()) >= min_p)
    weights = np.exp(scores[kept] - scores.max()).astype(np.float64)
    reached = np.cumsum(weights) / weights.sum()
    for share in (0.0, 0.3, 0.7, 0.999999):
        token = draw_at(scores, Sampling(temperature=1.0, min_p=min_p), share)
        place = int(np.searchsorted(reached, share, "right"))
        assert token in kept[max(0, place - 1) : place + 2], share


def test_wrong_shapes_and_types_are_refused() -> None:
    for logits in (np.zeros((1, 4), np.float32), np.zeros((2, 5), np.float64)):
        with pytest.raises(ValueError, match=r"expected float32 \[2, 5\]"):
            Sampler(5).sample(logits, [state(GREEDY), state(GREEDY)])
    assert Sampler(5).sample(np.zeros((0, 5), np.float32), []) == []


def test_check_refuses_what_no_row_can_obey() -> None:
    sampler = Sampler(3)
    with pytest.raises(InvalidRequestError, match=r"logit_bias\[3\]"):
        sampler.check(Sampling(logit_bias={3: 1.0}))
    with pytest.raises(InvalidRequestError, match="min_new_tokens"):
        sampler.check(Sampling(), (0, 1, 2))
    sampler.check(Sampling(logit_bias={2: 1.0}), (0, 1, 9))
    with pytest.raises(ValueError, match="banned"):
        sampler.sample(
            np.zeros((1, 3), np.float32), [state(GREEDY, banned=(0, 1, 2), min_new_tokens=1)]
        )


def test_effective_seed_keeps_a_given_seed_and_draws_a_missing_one() -> None:
    assert effective_seed(Sampling(seed=0)) == 0
    fresh = {effective_seed(Sampling()) for _ in range(8)}
    assert len(fresh) == 8 and all(0 <= seed < 2**64 for seed in fresh)


@settings(max_examples=60, deadline=None)
@given(
    vocab=st.sampled_from([1, 2, 50, 4096, 4097, 9001]),
    share=st.floats(0, 1),
    levels=st.sampled_from([1, 3, 10**6]),
    seed=st.integers(0, 1000),
)
def test_largest_equals_a_stable_sort(vocab: int, share: float, levels: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, levels, vocab).astype(np.float32)
    values[:: max(vocab // 7, 1)] = -np.inf
    count = max(1, min(vocab, round(share * vocab)))
    expected = np.argsort(-values, kind="stable")[:count]
    assert largest(values, count).tolist() == expected.tolist()


@pytest.mark.slow
def test_the_reference_is_what_transformers_computes() -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    rng = np.random.default_rng(0)
    for _ in range(100):
        raw = (rng.standard_normal(int(rng.choice([50, 700]))) * 3).astype(np.float32)
        rules = Sampling(
            temperature=float(rng.choice([0.3, 0.7, 1.4])),
            top_k=int(rng.choice([1, 5, 40])),
            top_p=float(rng.choice([1.0, 0.93, 0.41])),
            min_p=float(rng.choice([0.0, 0.05, 0.3])),
            repetition_penalty=float(rng.choice([1.0, 1.3])),
        )
        prompt = [1, 2, 3, 3]
        scores = torch.tensor(raw)[None]
        for step in (
            process.RepetitionPenaltyLogitsProcessor(rules.repetition_penalty),
            process.TemperatureLogitsWarper(rules.temperature),
            process.TopKLogitsWarper(rules.top_k),
            process.TopPLogitsWarper(rules.top_p),
            process.MinPLogitsWarper(rules.min_p),
        ):
            scores = step(torch.tensor([prompt]), scores)
        ours = distribution(adjusted_reference(raw, rules, prompt, [], ()), rules)
        np.testing.assert_allclose(ours, torch.softmax(scores, -1)[0].numpy(), atol=1e-6)
