"""What is never generated: the rule against a plain reference, and through engine and tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from history_engine import CAPACITY, CHUNK, VOCAB, HistoryBackend, byte_codec
from hypothesis import given
from hypothesis import strategies as st

from edgellama.profiles.profile import Limits
from edgellama.runtime.bad_words import BadWords
from edgellama.runtime.completion import Output
from edgellama.runtime.engine import Engine
from edgellama.runtime.guide import Guide
from edgellama.runtime.request import (
    MAX_BAD_WORD_CHARS,
    MAX_BAD_WORD_TOKENS,
    MAX_BAD_WORDS,
    EngineFailedError,
    InvalidRequestError,
    Request,
    Sampling,
    Stop,
)
from edgellama.runtime.sampling import Sampler, SamplingState
from edgellama.runtime.text import TextCodec

Ids = tuple[int, ...]
PROMPT = tuple(b"A prompt that ends with B")


def holds(tokens: Ids, sequence: Ids) -> bool:
    return any(tokens[i : i + len(sequence)] == sequence for i in range(len(tokens)))


@given(
    vocab=st.integers(2, 5),
    sequences=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple), max_size=8),
    seed=st.integers(0, 1000),
    temperature=st.sampled_from((0.0, 1.0, 9.0)),
    penalty=st.sampled_from((1.0, 0.5)),
)
def test_no_sequence_ever_appears_and_nothing_else_is_banned(
    vocab: int, sequences: list[Ids], seed: int, temperature: float, penalty: float
) -> None:
    rules = Sampling(temperature=temperature, seed=seed, repetition_penalty=penalty)
    state = SamplingState(
        rules,
        (0, 1),
        seed,
        banned_until_min=(),
        min_new_tokens=0,
        top_logprobs=None,
        bad_words=BadWords(sequences),
    )
    drawn: Ids = ()
    noise = np.random.default_rng(seed)
    for _ in range(25):
        logits = noise.standard_normal((1, vocab)).astype(np.float32)
        # What may come next, found by trying.
        allowed = [
            token
            for token in range(vocab)
            if not any((*drawn, token)[-len(s) :] == s for s in sequences)
        ]
        assert state.bad_words is not None
        banned = set(state.bad_words.banned(vocab).tolist())
        assert banned == set(range(vocab)) - set(allowed)
        if not allowed:
            with pytest.raises(ValueError, match="every token is banned"):
                Sampler(vocab).sample(logits, [state])
            return
        (draw,) = Sampler(vocab).sample(logits, [state])
        assert draw.token in allowed
        if temperature == 0.0 and penalty == 1.0:
            assert draw.token == max(allowed, key=lambda token: logits[0, token])
        drawn = (*drawn, draw.token)
    assert not any(holds(drawn, sequence) for sequence in sequences)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    limits = Limits(4, CAPACITY, CHUNK, 64)
    with Engine(HistoryBackend(4), byte_codec(), limits) as engine:
        yield engine


def ask(engine: Engine, prompt: Ids = PROMPT, n: int = 1, **rules: object) -> Output:
    sampling = Sampling(**{"temperature": 0.0, **rules})  # type: ignore[arg-type]
    stop = Stop(max_new_tokens=40, ignore_eos=True)
    return engine.generate(Request(prompt, sampling, stop, top_logprobs=0, n=n)).outputs[0]


def test_what_would_be_the_most_likely_answer_is_left(engine: Engine) -> None:
    plain = ask(engine)
    sequence = plain.token_ids[5:8]
    done = ask(engine, bad_token_ids=(sequence,))
    first = next(i for i in range(40) if plain.token_ids[i : i + 3] == sequence) + 2
    assert done.token_ids[:first] == plain.token_ids[:first]
    assert done.token_ids[first] != plain.token_ids[first], "the last token is what cannot come"
    assert not holds(done.token_ids, sequence)
    assert done.logprobs[:first] == plain.logprobs[:first], "they are those before the rule"
    single = ask(engine, bad_token_ids=(plain.token_ids[:1],))
    assert plain.token_ids[0] not in single.token_ids


def test_a_word_is_banned_with_and_without_a_space(engine: Engine) -> None:
    plain = ask(engine).text
    word = plain[5:8]
    assert ask(engine, bad_words=(word,)).text == ask(engine, bad_words=(f"  {word}",)).text
    assert word in plain and word not in ask(engine, bad_words=(word,)).text
    longer = ask(engine, bad_words=(word, word[:1]), temperature=1.0, seed=3).text
    assert word[0] not in longer


def test_a_sequence_that_begins_in_the_prompt_is_not_seen(engine: Engine) -> None:
    first = ask(engine).token_ids[0]
    assert ask(engine, bad_token_ids=((PROMPT[-1], first),)).token_ids[0] == first


def test_every_output_counts_for_itself(engine: Engine) -> None:
    rules = Sampling(temperature=1.0, seed=1, bad_words=("B", "CD"))
    stop = Stop(max_new_tokens=40, ignore_eos=True)
    done = engine.generate(Request(PROMPT, rules, stop, n=3))
    assert not any("B" in output.text or "CD" in output.text for output in done.outputs)
    assert any("C" in output.text for output in done.outputs)
    alone = [
        engine.generate(Request(PROMPT, replace(rules, seed=1 + i), stop)).outputs[0]
        for i in range(3)
    ]
    assert list(done.outputs) == alone


def test_a_guide_that_asks_for_a_bad_word_costs_its_request_only(engine: Engine) -> None:
    guided = Request(PROMPT, Sampling(bad_words=("B",)), guide=Guide(choices=("AB",)))
    with pytest.raises(EngineFailedError, match="the request failed"):
        engine.generate(guided)
    assert ask(engine) and not engine.has_failed


def test_llama_3_has_other_tokens_for_a_word_behind_a_space(llama3: TextCodec) -> None:
    hello, spaced = (tuple(llama3.encode(t, add_special_tokens=False)) for t in ("word", " word"))
    assert len(hello) == len(spaced) == 1 and hello != spaced
    assert llama3.bad_words(("word",)) == (hello, spaced)
    assert llama3.bad_words((" word", " ")) == (hello, spaced, (220,))
    assert llama3.bad_words(("<|eot_id|>",))[0] == (128_009,)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"bad_words": ("a",) * (MAX_BAD_WORDS + 1)}, r"bad_words: has 129 entries; at most 128"),
        ({"bad_words": ("",)}, r"bad_words: has an entry of 0 characters; each needs 1 to 256"),
        ({"bad_words": ("a" * (MAX_BAD_WORD_CHARS + 1),)}, r"bad_words: has an entry of 257"),
        ({"bad_token_ids": ((1,),) * (MAX_BAD_WORDS + 1)}, r"bad_token_ids: has 129 entries"),
        ({"bad_token_ids": ((),)}, r"bad_token_ids: has an entry of 0 tokens; each needs 1 to 64"),
        (
            {"bad_token_ids": ((1,) * (MAX_BAD_WORD_TOKENS + 1),)},
            r"bad_token_ids: has an entry of 65 tokens",
        ),
        ({"bad_token_ids": ((1, VOCAB),)}, r"bad_token_ids: has token id 258; the vocabulary is"),
        ({"bad_words": ("\ud800",)}, r"bad_words: holds a lone surrogate"),
    ],
)
def test_what_is_out_of_bounds_is_refused(
    engine: Engine, rules: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=rf"sampling\.{message}"):
        ask(engine, **rules)


def test_a_vocabulary_without_a_token_left_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="every token of the vocabulary would be banned"):
        Sampler(3).check(Sampling(), (0,), ((1,), (2,), (0, 1)))
    Sampler(3).check(Sampling(), (), ((1,), (2,), (0, 1)))
