"""The service over the real engine, scheduler, sampler and tokenizer; only the model is made up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from serving_engine import MANIFEST, until
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from edgellama.grpc_service import generation_pb2 as pb
from edgellama.grpc_service.aio_client import AsyncClient
from edgellama.grpc_service.client_errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServerError,
    Unavailable,
)
from edgellama.grpc_service.generation_pb2_grpc import GenerationServiceStub
from edgellama.grpc_service.server import Server
from edgellama.profiles.profile import Limits
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.completion import Collector
from edgellama.runtime.engine import Engine
from edgellama.runtime.event import FinishReason
from edgellama.runtime.request import Request, Sampling, Stop
from edgellama.runtime.step import Step
from edgellama.runtime.text import TextCodec

SLOTS, CAPACITY = 4, 96
BEGIN, END = 256, 257
VOCAB = 258
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


class HashBackend:
    """The next token depends on all tokens of the slot, so a mixed-up slot changes the text."""

    slots, capacity, vocab_size = SLOTS, CAPACITY, VOCAB
    run_seconds = 0.0

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.step_seconds = 0.0
        self._cache = np.zeros((SLOTS, CAPACITY), np.int64)

    def run(self, step: Step) -> npt.NDArray[np.float32]:
        if self.fault is not None:
            raise self.fault
        time.sleep(self.step_seconds)
        for copy in step.copies:
            self._cache[copy.target, : copy.length] = self._cache[copy.source, : copy.length]
        rows = [self._feed(row.slot, (row.token,), row.position) for row in step.decode]
        if step.prefill is not None:
            logits = self._feed(step.prefill.slot, step.prefill.tokens, step.prefill.start)
            rows += [logits] * step.prefill.is_last
        return np.array(rows, np.float32).reshape(-1, VOCAB)

    def _feed(self, slot: int, tokens: tuple[int, ...], start: int) -> npt.NDArray[np.float32]:
        end = start + len(tokens)
        self._cache[slot, start:end] = tokens
        logits = np.random.default_rng(self._cache[slot, :end]).standard_normal(VOCAB)
        logits[END] = -50.0  # answers end by their limits
        return logits.astype(np.float32)

    def run_tokens(
        self, slot: int, tokens: list[int], start: int, *, is_pinned: bool = False
    ) -> npt.NDArray[np.float32]:
        rows = [self._feed(slot, (token,), start + i) for i, token in enumerate(tokens)]
        return np.array(rows, np.float32)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    folder: Path = tmp_path_factory.mktemp("codec")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", BEGIN)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    generation = {
        "bos_token_id": BEGIN,
        "stop_token_ids": [END],
        "sampling": {"temperature": 0.0},
        "special_tokens": {"bos_token": "<|begin|>"},
    }
    (folder / "generation.json").write_text(json.dumps(generation))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return TextCodec.load(folder)


@pytest.fixture
def backend() -> HashBackend:
    return HashBackend()


@pytest.fixture
def engine(backend: HashBackend, codec: TextCodec) -> Iterator[Engine]:
    limits = Limits(slots=SLOTS, capacity=CAPACITY, prefill_chunk=8, max_queue=16)
    with Engine(backend, codec, limits, MANIFEST) as engine:
        yield engine


def alone(engine: Engine, prompt: str, max_new_tokens: int) -> tuple[str, tuple[int, ...]]:
    """Return the answer without any service in between."""
    collector = Collector()
    ids = tuple(engine.codec.encode(prompt))
    engine.submit(
        Request(ids, Sampling(temperature=0.0), Stop(max_new_tokens=max_new_tokens)), collector
    )
    done = collector.result()
    return done.text, done.token_ids


async def test_same_answer_as_the_engine_alone_and_in_a_full_batch(engine, client):
    prompts = [f"prompt number {i:02} " + "é" * i for i in range(16)]
    expected = [await asyncio.to_thread(alone, engine, p, 8 + i) for i, p in enumerate(prompts)]

    async def streamed(index: int) -> None:
        stream = client.stream(prompts[index], max_new_tokens=8 + index)
        offset = 0
        async for delta in stream:
            assert delta.token_offset == offset
            offset += len(delta.token_ids)
        assert (stream.text, stream.token_ids) == expected[index]
        assert stream.usage.output_tokens == len(stream.token_ids)

    async def whole(index: int) -> None:
        done = await client.generate(prompts[index], max_new_tokens=8 + index)
        assert (done.text, done.token_ids) == expected[index]

    await asyncio.gather(*(streamed(i) for i in range(16)))
    await asyncio.gather(*(whole(i) for i in range(16)))


async def test_a_prompt_is_computed_once_for_each_salt(client):
    async def cached(salt):
        text = "what a tenant asks twice"
        done = await client.generate(text, max_new_tokens=4, cache_salt=salt)
        return done.token_ids, done.usage.cached_prompt_tokens

    first, again, other = [await cached(salt) for salt in ("one", "one", "two")]
    assert first[0] == again[0] == other[0]
    assert first[1] == other[1] == 0 and again[1] == len("what a tenant asks twice")


async def test_guides_hold_over_the_wire(client):
    schema = {"type": "array", "items": {"enum": [1, "b"]}, "minItems": 2, "maxItems": 2}
    options = {"temperature": 1.0, "max_new_tokens": 40}
    answers = await asyncio.gather(
        client.generate("a", json_schema=schema | {"x-guidance": COMPACT}, seed=1, **options),
        client.generate("a", regex="[0-9]{3}", seed=2, **options),
        client.generate("a", choices=["yes", "no"], seed=3, **options),
        client.generate("a", seed=4, **options),
    )
    assert json.loads(answers[0].text)[0] in (1, "b")
    assert answers[1].text.isdigit() and len(answers[1].text) == 3
    assert answers[2].text in ("yes", "no")
    assert [answer.finish_reason for answer in answers] == [
        *[FinishReason.GUIDE] * 3,
        FinishReason.MAX_TOKENS,
    ]
    with pytest.raises(InvalidRequest, match="unclosed group") as caught:
        await client.generate("a", regex="(")
    assert caught.value.field == "guide.regex"


# No blanks between the tokens: a random model would draw them for ever.
COMPACT = {"whitespace_flexible": False}


async def test_the_steps_of_the_engine_come_over_the_wire(client, engine):
    await asyncio.gather(*(client.generate(f"steps {i}", max_new_tokens=3) for i in range(6)))
    steps = await client.steps()
    for told, kept in zip(steps, engine.steps(), strict=False):
        assert replace(told, began=0.0, parts=kept.parts) == replace(kept, began=0.0)
        assert told.began == pytest.approx(kept.began, abs=1e-8)
        assert asdict(told.parts) == pytest.approx(asdict(kept.parts), abs=1e-8)
    assert len(await client.steps(last=2)) == 2
    assert await client.steps(last=0) == ()
    assert any(step.choice.rows for step in steps)
    with pytest.raises(InvalidRequest):
        await client.steps(last=-1)


async def test_seeded_draws_repeat_and_the_minted_seed_is_reported(client):
    first = await client.generate("a", max_new_tokens=12, temperature=1.0)
    again = await client.generate("a", max_new_tokens=12, temperature=1.0, seed=first.seed)
    assert again.token_ids == first.token_ids
    other = await client.generate("a", max_new_tokens=12, temperature=1.0, seed=first.seed ^ 1)
    assert other.token_ids != first.token_ids


async def test_log_probabilities_of_the_prompt_whole_and_streamed(client, engine):
    ids = tuple(engine.codec.encode("what is likely in it?"))
    collector = Collector()
    stop = Stop(max_new_tokens=3)
    engine.submit(Request(ids, Sampling(temperature=0.0), stop, prompt_logprobs=2), collector)
    wanted = collector.result().prompt_logprobs
    assert len(wanted) == len(ids) and wanted[0] is None
    whole = await client.generate(ids, max_new_tokens=3, prompt_logprobs=2)
    stream = client.stream(ids, max_new_tokens=3, prompt_logprobs=2)
    async for _ in stream:
        assert len(stream.prompt_logprobs) == len(ids)
    assert whole.prompt_logprobs[0] is None
    for one, other in zip(whole.prompt_logprobs[1:], wanted[1:], strict=True):
        assert one.chosen == pytest.approx(other.chosen, abs=1e-5)  # 32 bits on the wire
        assert [token for token, _ in one.top] == [token for token, _ in other.top]
    assert stream.prompt_logprobs == stream.completion().prompt_logprobs == whole.prompt_logprobs
    assert whole.usage.cached_prompt_tokens == 0
    lean = await client.generate([1], max_new_tokens=1, prompt_logprobs=0)
    assert lean.prompt_logprobs == (None,)
    assert (await client.generate(ids, max_new_tokens=1)).prompt_logprobs == ()


async def test_bad_words_never_come_over_the_wire(client):
    plain = await client.generate("words", max_new_tokens=20)
    word, ids = plain.text[:1], list(plain.token_ids[6:8])
    done = await client.generate("words", max_new_tokens=20, bad_words=[word], bad_token_ids=[ids])
    assert word in plain.text and word not in done.text
    pairs = list(zip(done.token_ids, done.token_ids[1:], strict=False))
    assert tuple(ids) not in pairs
    first = await client.generate("words", max_new_tokens=20, bad_token_ids=[ids])
    assert first.token_ids[:7] == plain.token_ids[:7]
    assert first.token_ids[7] != plain.token_ids[7]


async def test_outputs_of_one_prompt_whole_and_streamed(client, engine):
    options = {"max_new_tokens": 12, "temperature": 1.0, "seed": 5, "top_logprobs": 1}
    prompt = "several answers to one prompt"
    before = engine.stats().prompt_tokens
    whole = await client.generate(prompt, n=3, **options)
    assert engine.stats().prompt_tokens - before == whole.usage.prompt_tokens + 2
    alone = [await client.generate(prompt, **options | {"seed": 5 + i}) for i in range(3)]
    assert whole.outputs == tuple(one.outputs[0] for one in alone)
    assert len({output.text for output in whole.outputs}) == 3
    assert whole.usage.output_tokens == 36 and whole.usage.cached_prompt_tokens == 0
    stream = client.stream(prompt, n=3, **options)
    texts, offsets = ["", "", ""], [0, 0, 0]
    async for delta in stream:
        assert delta.token_offset == offsets[delta.index]
        offsets[delta.index] += len(delta.token_ids)
        texts[delta.index] += delta.text
    assert offsets == [12, 12, 12]
    assert texts == [output.text for output in whole.outputs]
    assert stream.completion().outputs == whole.outputs
    assert stream.usage.output_tokens == 36
    assert stream.usage.cached_prompt_tokens == whole.usage.prompt_tokens - 1
    assert (stream.text, stream.completion().seed) == (whole.text, 5)


async def test_the_messages_of_several_outputs_come_in_order(server):
    spec = pb.GenerationSpec(text="in order", n=2, stop=pb.Stop(max_new_tokens=4))
    kinds = []
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = GenerationServiceStub(channel).StreamGenerate(pb.StreamGenerateRequest(spec=spec))
        async for message in call:
            kind = message.WhichOneof("event")
            kinds.append((kind, getattr(getattr(message, kind), "index", None)))
    assert kinds[0] == ("admission", None) and kinds[-1] == ("stream_end", None)
    assert [kind for kind, _ in kinds].count("output_end") == 2
    for index in range(2):
        own = [kind for kind, of in kinds if of == index]
        assert own[-1] == "output_end" and set(own[:-1]) == {"delta"}


async def test_a_stream_of_several_outputs_that_is_left_frees_every_slot(
    client, engine, server, backend
):
    backend.step_seconds = 0.005
    stream = client.stream("left early", n=SLOTS, max_new_tokens=80)
    seen = set()
    async for delta in stream:
        seen.add(delta.index)
        if len(seen) == SLOTS:
            break
    stream.close()
    await until(lambda: not server.in_flight and engine.stats().free_slots == SLOTS)
    assert engine.stats().output_tokens < SLOTS * 80
    with pytest.raises(DeadlineExceeded):
        await client.generate("too late", n=SLOTS, max_new_tokens=80, timeout=0.1)
    await until(lambda: not server.in_flight and engine.stats().free_slots == SLOTS)


async def test_a_failure_of_several_outputs_is_told_once(client, backend):
    backend.step_seconds = 0.005
    stream = client.stream("fails", n=3, max_new_tokens=80)
    with pytest.raises(ServerError) as caught:
        async for delta in stream:
            if delta.index == 2:
                backend.fault = RuntimeError("device lost")
    assert caught.value.reason == "ENGINE_FAILED"


async def test_chat_tokenize_and_generate_agree(client):
    chat = [ChatMessage("user", "hi")]
    ids = await client.tokenize(chat)
    assert ids[0] == BEGIN
    assert await client.detokenize(ids) == "[user]hi[assistant]"
    by_chat = await client.generate(chat, max_new_tokens=6)
    by_ids = await client.generate(ids, max_new_tokens=6)
    assert by_chat.token_ids == by_ids.token_ids


async def test_logprobs_of_every_token(client):
    done = await client.generate("a", max_new_tokens=5, top_logprobs=3)
    assert len(done.logprobs) == 5
    for token, entry in zip(done.token_ids, done.logprobs, strict=True):
        assert len(entry.top) == 3
        assert entry.top[0] == (token, entry.chosen)  # greedy


async def test_stop_token_and_context_full(client):
    plain = await client.generate("a", max_new_tokens=5)
    done = await client.generate("a", stop_token_ids=[plain.token_ids[2]])
    assert (done.finish_reason, done.match) == (FinishReason.STOP_TOKEN, plain.token_ids[2])
    full = await client.generate("a")
    assert full.finish_reason is FinishReason.CONTEXT_FULL
    assert full.usage.prompt_tokens + full.usage.output_tokens == CAPACITY


@pytest.mark.parametrize(
    ("prompt", "options", "field"),
    [
        ("x" * CAPACITY, {}, "text"),
        ([VOCAB], {}, "tokens.ids"),
        ("a", {"max_new_tokens": CAPACITY}, "stop.max_new_tokens"),
        ("a", {"logit_bias": {VOCAB: 1.0}}, f"sampling.logit_bias[{VOCAB}]"),
        ("a", {"stop_token_ids": [VOCAB]}, "stop.token_ids"),
        ("a", {"n": SLOTS + 1}, "n"),
        ("a", {"bad_token_ids": [[1, VOCAB]]}, "sampling.bad_token_ids"),
    ],
)
async def test_refusals_of_the_engine_name_the_field_on_the_wire(client, prompt, options, field):
    with pytest.raises(InvalidRequest) as caught:
        await client.generate(prompt, **options)
    assert caught.value.field == field


async def test_duplicate_id_is_refused_and_the_first_goes_on(backend, client):
    backend.step_seconds = 0.005
    stream = client.stream("a", max_new_tokens=60, request_id="twice")
    iterator = aiter(stream)
    await anext(iterator)
    with pytest.raises(InvalidRequest) as caught:
        await client.generate("b", request_id="twice")
    assert caught.value.field == "request_id"
    async for _ in iterator:
        pass
    assert len(stream.token_ids) == 60


async def test_flood_is_bounded_and_every_call_gets_an_answer(engine, client):
    async def call(index: int) -> str:
        try:
            await client.generate(f"{index}", max_new_tokens=30)
        except Overloaded as error:
            assert 0.1 <= error.retry_after <= 60
            return "refused"
        return "served"

    outcomes = await asyncio.gather(*(call(i) for i in range(80)))
    assert outcomes.count("served") >= 16
    assert outcomes.count("refused") > 0
    assert engine.stats().free_slots == SLOTS


async def test_random_cancels_free_every_slot(engine, server, client):
    rng = np.random.default_rng(0)

    async def call(index: int) -> None:
        await asyncio.sleep(float(rng.uniform(0, 0.3)))
        stream = client.stream(f"{index}", max_new_tokens=80)
        left = int(rng.integers(0, 20))
        try:
            async for _ in stream:
                left -= 1
                if left < 0:
                    break
        except Overloaded:
            pass
        stream.close()

    await asyncio.gather(*(call(i) for i in range(60)))
    await until(lambda: not server.in_flight and engine.stats().free_slots == SLOTS)
    assert engine.stats().waiting == 0


async def test_engine_failure_ends_every_stream_and_turns_health(backend, server, client):
    backend.step_seconds = 0.02
    streams = [client.stream("a", max_new_tokens=80) for _ in range(3)]
    iterators = [aiter(stream) for stream in streams]
    for iterator in iterators:
        await anext(iterator)
    backend.fault = RuntimeError("device lost: secret")
    for iterator in iterators:
        with pytest.raises(ServerError) as caught:
            async for _ in iterator:
                pass
        assert caught.value.reason == "ENGINE_FAILED"
        assert "secret" not in str(caught.value)
    with pytest.raises(Unavailable, match="NOT_SERVING"):  # before anyone asks again
        await client.wait_ready(0.3)
    with pytest.raises(ServerError):
        await client.generate("a")


async def test_drain_finishes_what_waits_for_a_slot_too(engine, backend, server: Server):
    backend.step_seconds = 0.01
    async with AsyncClient(server.address) as client:
        calls = [
            asyncio.ensure_future(client.generate(f"{i}", max_new_tokens=60)) for i in range(10)
        ]
        await until(lambda: engine.stats().running + engine.stats().waiting == 10)
        assert await server.drain(10) is True
        assert [len((await call).token_ids) for call in calls] == [60] * 10
