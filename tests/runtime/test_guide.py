"""Guides: what they allow, through the sampler and the engine, and what they refuse."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgellama.profiles.profile import Limits
from edgellama.runtime.completion import Collector
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import FinishReason
from edgellama.runtime.guide import MAX_CHOICES, MAX_GUIDE_CHARS, Guide
from edgellama.runtime.request import (
    EngineFailedError,
    InvalidRequestError,
    Request,
    Sampling,
    Stop,
)
from edgellama.runtime.step import Step
from edgellama.runtime.text import GenerationConfig, TextCodec

SLOTS, CAPACITY, VOCAB = 8, 1024, 264  # six ids beyond the tokenizer, as padded heads have
EOS = 257


class NoiseBackend:
    """A model that knows nothing: normal noise for logits, with a lean to the end of texts."""

    slots, capacity, vocab_size, run_seconds = SLOTS, CAPACITY, VOCAB, 0.0

    def __init__(self) -> None:
        self._draw = np.random.default_rng(3)
        self.steps: list[Step] = []

    def run(self, step: Step) -> npt.NDArray[np.float32]:
        self.steps.append(step)
        logits = self._draw.standard_normal((step.num_logits, VOCAB)).astype(np.float32)
        logits[:, [*b'"}],', EOS]] += 2.0
        logits[:, 258:] += 9.0
        return logits

    def close(self) -> None:
        pass


def tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    found = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens(["<|begin|>", "<|end|>"])
    return found


def make_codec(stop_ids: tuple[int, ...] = (EOS,)) -> TextCodec:
    return TextCodec(tokenizer(), GenerationConfig(256, stop_ids, Sampling(), {}), None)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(NoiseBackend(), make_codec(), Limits(SLOTS, CAPACITY, 64, 400)) as engine:
        yield engine


def ask(guide: Guide | None, seed: int = 0, **options: Any) -> Request:
    stop = Stop(max_new_tokens=options.pop("new", 900))
    return Request((256, 1), Sampling(seed=seed, **options), stop, guide=guide)


def test_exactly_one_rule_is_given() -> None:
    with pytest.raises(InvalidRequestError, match="is empty; give exactly one of json_schema"):
        Guide()
    with pytest.raises(InvalidRequestError, match="has regex and choices; give exactly one"):
        Guide(regex="a", choices=("a",))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"choices": ()}, r"guide\.choices: has 0 entries; it needs 1 to 1024"),
        ({"choices": ("a",) * (MAX_CHOICES + 1)}, r"guide\.choices: has 1025 entries"),
        ({"choices": ("a", "")}, r"guide\.choices: has an empty text"),
        ({"regex": ""}, r"guide\.regex: has an empty text"),
        ({"grammar": "a" * (MAX_GUIDE_CHARS + 1)}, r"guide\.grammar: has 65537 characters"),
    ],
)
def test_a_rule_has_bounds(rule: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        Guide(**rule)


def test_two_rules_for_the_end_are_refused() -> None:
    for stop in (Stop(min_new_tokens=3), Stop(ignore_eos=True)):
        with pytest.raises(InvalidRequestError, match="beside a guide"):
            Request((1,), stop=stop, guide=Guide(regex="a+"))


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"regex": "("}, "guide.regex"),
        ({"regex": "(?=a)b"}, "guide.regex"),
        ({"json_schema": "{"}, "guide.json_schema"),
        ({"json_schema": "[1]"}, "guide.json_schema"),
        ({"json_schema": '{"type": "nosuch"}'}, "guide.json_schema"),
        ({"json_schema": '{"$ref": "http://localhost/x"}'}, "guide.json_schema"),
        (
            {"json_schema": '{"type": "object", "unevaluatedProperties": false}'},
            "guide.json_schema",
        ),
        ({"grammar": "start: nothing"}, "guide.grammar"),
    ],
)
def test_what_cannot_be_compiled_is_refused(
    engine: Engine, rule: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.submit(ask(Guide(**rule)), Collector())
    assert caught.value.field == field
    assert "\n" not in caught.value.message and caught.value.message


def test_a_model_without_a_stop_id_has_no_guides() -> None:
    with pytest.raises(InvalidRequestError, match="needs a model with a stop id"):
        make_codec(()).guide(Guide(regex="a"))


@pytest.mark.parametrize("temperature", [0.0, 1.0, 50.0])
def test_the_answer_obeys(engine: Engine, temperature: float) -> None:
    words = ("red", "red wine", 'blau "quoted"', "grün\n")
    for seed in range(8):
        answer = engine.generate(ask(Guide(choices=words), seed, temperature=temperature))
        assert answer.text in words
        assert answer.finish_reason in (FinishReason.GUIDE, FinishReason.EOS)
        answer = engine.generate(ask(Guide(regex="[a-c]{2,5}é"), seed, temperature=temperature))
        assert re.fullmatch("[a-c]{2,5}é", answer.text)
        lark = 'start: "(" start ")" | "x"'
        answer = engine.generate(ask(Guide(grammar=lark), seed, temperature=temperature))
        assert re.fullmatch(r"\(*x\)*", answer.text)
        assert answer.text.count("(") == answer.text.count(")")


def test_a_text_that_can_go_on_ends_by_the_models_stop_id(engine: Engine) -> None:
    answer = engine.generate(ask(Guide(regex="[a-z]+")))
    assert answer.finish_reason is FinishReason.EOS and answer.token_ids[-1] == EOS
    assert re.fullmatch("[a-z]+", answer.text)


def test_the_last_tokens_end_is_complete_and_not_cut(engine: Engine) -> None:
    whole = engine.generate(ask(Guide(choices=("yes",)), new=3))
    assert (whole.text, whole.finish_reason) == ("yes", FinishReason.GUIDE)
    cut = engine.generate(ask(Guide(choices=("yes",)), new=2))
    assert (cut.text, cut.finish_reason) == ("ye", FinishReason.MAX_TOKENS)


def random_schema(draw: np.random.Generator, depth: int = 0) -> dict[str, Any]:
    kinds = ["integer", "number", "boolean", "null", "string", "enum", "pattern"]
    kind = draw.choice([*kinds, "object", "array", "any"] if depth < 3 else kinds)
    if kind == "object":
        names = [f"k{i}" for i in range(draw.integers(1, 5))]
        return {
            "type": "object",
            "properties": {name: random_schema(draw, depth + 1) for name in names},
            "required": names[: draw.integers(0, len(names) + 1)],
            "additionalProperties": False,
        }
    if kind == "array":
        low = int(draw.integers(0, 3))
        items = random_schema(draw, depth + 1)
        return {"type": "array", "items": items, "minItems": low, "maxItems": low + 2}
    if kind == "any":
        return {"anyOf": [random_schema(draw, depth + 1) for _ in range(2)]}
    if kind == "enum":
        return {"enum": [1, "two", None, True, {"four": [4.5]}][: draw.integers(1, 6)]}
    if kind == "string":
        return {"type": "string", "minLength": 1, "maxLength": int(draw.integers(1, 12))}
    if kind == "pattern":
        return {"type": "string", "pattern": "^[a-f]{1,4}-[0-9]+$", "maxLength": 9}
    if kind in ("integer", "number"):
        low = int(draw.integers(-1000, 1000))
        return {"type": kind, "minimum": low, "maximum": low + int(draw.integers(0, 500))}
    return {"type": kind}


def test_two_hundred_schemas_have_valid_answers(engine: Engine) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    draw = np.random.default_rng(11)
    schemas = [random_schema(draw) for _ in range(200)]
    collectors = [Collector() for _ in schemas]
    for seed, (schema, collector) in enumerate(zip(schemas, collectors, strict=True)):
        guide = Guide(json_schema=json.dumps({**schema, "x-guidance": COMPACT}))
        engine.submit(ask(guide, seed), collector)
    for schema, collector in zip(schemas, collectors, strict=True):
        answer = collector.result()
        assert answer.finish_reason in (FinishReason.GUIDE, FinishReason.EOS), answer.text
        jsonschema.validate(json.loads(answer.text), schema)


# No blanks between the tokens: noise would draw them for ever.
COMPACT = {"whitespace_flexible": False}


@pytest.mark.parametrize(
    "rule",
    [
        {"regex": "(a{0,1000}){0,1000}b"},
        {"regex": "(a|aa|aaa|b)*c{1,500}(x|y){500}z"},
        {"regex": "((((a*)*)*)*)*b"},
        {"regex": "(.*a){40}"},
        {"regex": "[a-z]{1,60000}"},
        {"grammar": 'start: start start | "a" | "b" | ""'},
        {"json_schema": json.dumps({"anyOf": [{"maxLength": n} for n in range(1, 800)]})},
        {"json_schema": json.dumps({"enum": [f"{n:050}" for n in range(1200)]})},
        {"json_schema": '{"type": "object", "patternProperties": {"(a+)+$": {"type": "string"}}}'},
    ],
)
def test_a_hostile_guide_costs_little(engine: Engine, rule: dict[str, Any]) -> None:
    """Refused within a second, or served without holding up the others."""
    backend = engine._backend
    assert isinstance(backend, NoiseBackend)
    began = time.perf_counter()
    other = Collector()
    hostile: Collector | None = Collector()
    try:
        engine.submit(ask(Guide(**rule), new=100), hostile)
    except InvalidRequestError:
        hostile = None
    assert time.perf_counter() - began < 1.0
    engine.submit(ask(None, new=300), other)
    other.result()
    if hostile is not None:
        with contextlib.suppress(EngineFailedError):  # too complex on the way: its own end
            assert hostile.result().token_ids
    assert not engine.has_failed
    longest = max(step.parts.sample for step in engine.steps()[-300:])
    assert longest < 0.5, "a step of the others"


def test_guided_and_free_requests_share_steps(engine: Engine) -> None:
    solo = engine.generate(ask(Guide(regex="[0-9]{30}"), 5))
    collectors = [Collector() for _ in range(6)]
    for index, collector in enumerate(collectors):
        guide = Guide(regex="[0-9]{30}") if index % 2 else None
        engine.submit(ask(guide, index, new=40), collector)
    answers = [collector.result() for collector in collectors]
    for index, answer in enumerate(answers):
        assert bool(re.fullmatch("[0-9]{30}", answer.text)) == bool(index % 2)
    assert re.fullmatch("[0-9]{30}", solo.text)


def test_log_probabilities_are_those_before_the_guide(engine: Engine) -> None:
    request = replace(ask(Guide(choices=("zz",))), top_logprobs=1)
    answer = engine.generate(request)
    assert answer.text == "zz"
    for each in answer.logprobs:
        assert each.top[0][0] >= 258 and each.chosen < each.top[0][1]


def test_a_guide_names_its_field() -> None:
    for rule in ({"json_schema": "{}"}, {"regex": "a"}, {"grammar": "a"}, {"choices": ("a",)}):
        (name,) = rule
        assert Guide(**rule).field == f"guide.{name}"  # type: ignore[arg-type]
        assert asdict(Guide(**rule))[name] == rule[name]  # type: ignore[arg-type]
