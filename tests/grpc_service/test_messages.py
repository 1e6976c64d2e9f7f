"""Records survive the wire; tables that must agree do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from edgellama.grpc_service import events
from edgellama.grpc_service import generation_pb2 as pb
from edgellama.grpc_service.call import _FIELDS, GenerateOptions, chat_to_wire, generation_spec
from edgellama.grpc_service.client_errors import InvalidRequest
from edgellama.grpc_service.errors import FAILURES, status_of
from edgellama.grpc_service.retry_delay import RetryDelay
from edgellama.grpc_service.spec import (
    ROLE_NAMES,
    chat_from_wire,
    sampling_from_wire,
    sampling_to_wire,
)
from edgellama.grpc_service.text_pool import TextPool
from edgellama.grpc_service.tool_wire import toolset_from_wire
from edgellama.runtime.chat import ROLES, ChatMessage
from edgellama.runtime.event import (
    Admission,
    Delta,
    End,
    FinishReason,
    Timing,
    TokenLogprobs,
    Usage,
)
from edgellama.runtime.request import QueueFullError, Sampling
from edgellama.runtime.tools import Tool, ToolCall, Toolset

u32 = st.integers(0, 2**32 - 1)
seconds = st.integers(0, 10**15).map(lambda nanos: nanos * 1e-9)
logprob = st.floats(-100, 0, width=32)
ROOT = Path(__file__).resolve().parents[2]

samplings = st.builds(
    Sampling,
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 2**31 - 1),
    top_p=st.floats(0.001, 1),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0.01, 10),
    presence_penalty=st.floats(-10, 10),
    frequency_penalty=st.floats(-10, 10),
    logit_bias=st.dictionaries(u32, st.floats(-1000, 1000), max_size=3),
    seed=st.none() | st.integers(0, 2**64 - 1),
    bad_words=st.lists(st.text(min_size=1, max_size=5), max_size=3).map(tuple),
    bad_token_ids=st.lists(st.lists(u32, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
)


@given(samplings)
def test_sampling_survives_the_wire_exactly(sampling):
    other = Sampling(temperature=33.0, top_k=7)  # must not shine through
    message = pb.Sampling.FromString(sampling_to_wire(sampling).SerializeToString())
    assert sampling_from_wire(message, other) == sampling


@given(samplings)
def test_an_empty_message_is_the_defaults(defaults):
    assert sampling_from_wire(pb.Sampling(), defaults) == defaults


@given(st.builds(Admission, st.text(max_size=9), u32, st.integers(0, 2**64 - 1), u32, seconds))
def test_admission_survives_the_wire(admission):
    back = events.admission_from_wire(events.admission_to_wire(admission))
    assert back.queue_seconds == pytest.approx(admission.queue_seconds, abs=1e-6)
    assert (back.request_id, back.seed) == (admission.request_id, admission.seed)
    assert (back.prompt_tokens, back.max_new_tokens) == (
        admission.prompt_tokens,
        admission.max_new_tokens,
    )


@given(u32, st.lists(u32, max_size=5), st.text(max_size=9), st.integers(0, 3), u32, st.data())
def test_delta_survives_the_wire(offset, ids, text, top, index, data):
    entry = st.builds(
        TokenLogprobs,
        logprob,
        st.lists(st.tuples(u32, logprob), min_size=top, max_size=top).map(tuple),
    )
    logprobs = tuple(data.draw(entry) for _ in ids)
    delta = Delta(offset, tuple(ids), text, logprobs, index)
    want = pb.Want(token_ids=True)
    message = events.delta_to_wire(delta, want)
    assert events.delta_from_wire(message) == delta
    assert message.token_count == len(ids)
    lean = events.delta_to_wire(delta, pb.Want(text=False))
    assert (lean.text, list(lean.token_ids), lean.token_count) == ("", [], len(ids))


@pytest.mark.parametrize("reason", list(FinishReason))
def test_every_reason_has_a_message_or_is_a_failure(reason):
    match = {FinishReason.STOP_STRING: "x", FinishReason.EOS: 0}.get(reason)
    end = End(reason, Usage(4, 5, 6), Timing(0.25, 0.5, 1.5), match, index=3)
    if reason in (FinishReason.CANCELLED, FinishReason.ERROR):
        with pytest.raises(KeyError):
            events.output_end_to_wire(end)
        return
    back = events.end_from_wire(
        events.output_end_to_wire(end),
        events.usage_to_wire(end.usage),
        events.timing_to_wire(end.timing),
    )
    assert back == end


def test_a_reason_of_a_newer_server_is_named():
    with pytest.raises(ValueError, match="99 is unknown"):
        events.end_from_wire(pb.OutputEnd(reason=99), pb.Usage(), pb.Timing())


def leaves(message, prefix=""):
    """The dotted names of a message's fields; those of its messages, but not of lists of such."""
    for field in message.fields:
        name = prefix + field.name
        if field.message_type is None or (prefix and field.is_repeated):
            yield name
        else:
            yield from leaves(field.message_type, f"{name}.")


def test_options_fields_and_messages_agree():
    assert set(GenerateOptions.__annotations__) == set(_FIELDS)
    covered = set(_FIELDS.values()) | {"text", "tokens.ids", "chat.messages", "want.token_ids"}
    assert covered == set(leaves(pb.GenerationSpec.DESCRIPTOR))


def test_roles_agree_with_the_runtime():
    assert set(ROLE_NAMES.values()) == set(ROLES)
    assert set(ROLE_NAMES) == set(pb.Role.values()) - {pb.ROLE_UNSPECIFIED}


def test_none_is_the_same_as_leaving_out():
    assert generation_spec("a", {"temperature": None}) == generation_spec("a", {})


def test_statuses_carry_their_row():
    for row in FAILURES:
        assert row.reason.isupper()
    status = status_of(QueueFullError("full"), "r", 2.5)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert [d.Unpack(m) for d, m in zip(status.details, (info, retry), strict=True)] == [True] * 2
    assert (info.reason, info.domain, info.metadata["request_id"]) == (
        "QUEUE_FULL",
        "edgellama",
        "r",
    )
    assert retry.retry_delay.ToNanoseconds() == 2_500_000_000


def test_documentation_lists_the_failures():
    text = (ROOT / "docs" / "grpc.md").read_text(encoding="utf-8")
    for row in FAILURES:
        answer = "yes" if row.retryable else "no"
        assert f"| `{row.reason}` | `{row.code.name}` | {answer} |" in text


def test_retry_delay_follows_the_pace_within_bounds():
    delay = RetryDelay(slots=4)
    assert delay.seconds == 1.0
    delay.observe(8.0)
    assert delay.seconds == 2.0
    for _ in range(60):
        delay.observe(0.0001)
    assert delay.seconds == 0.1
    for _ in range(60):
        delay.observe(10_000.0)
    assert delay.seconds == 60.0


async def test_text_pool_is_bounded_and_recovers():
    pool = TextPool(threads=1, limit=2)
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow() -> str:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(5)
        return "done"

    running = [asyncio.ensure_future(pool.run(slow)) for _ in range(2)]
    await asyncio.sleep(0.01)
    with pytest.raises(QueueFullError, match="2 texts wait"):
        await pool.run(slow)
    running[1].cancel()  # it has not begun, so its place is free at once
    await asyncio.sleep(0)
    running.append(asyncio.ensure_future(pool.run(slow)))
    release.set()
    assert [await running[0], await running[2]] == ["done", "done"]
    pool.close()


calls = st.lists(st.builds(ToolCall, st.text(max_size=5), st.text(max_size=5), st.text(max_size=5)))


@given(u32, u32, calls)
def test_calls_survive_the_wire(offset, index, made):
    delta = Delta(0, (), "", (), index, tuple(made), offset)
    assert events.delta_from_wire(events.delta_to_wire(delta, pb.Want())) == delta
    turn = ChatMessage("assistant", "", tuple(made))
    sent = chat_to_wire([turn, ChatMessage("tool", "x", tool_call_id="i")])
    assert chat_from_wire(sent) == (turn, ChatMessage("tool", "x", tool_call_id="i"))


@given(
    st.lists(
        st.builds(
            Tool,
            st.from_regex(r"[a-z]{1,9}", fullmatch=True),
            st.text(max_size=5),
            st.just('{"type": "object"}'),
        ),
        min_size=1,
        unique_by=lambda t: t.name,
    ),
    st.sampled_from([(), ("brave_search",)]),
    st.none() | st.booleans(),
)
def test_tools_survive_the_wire(tools, builtin, in_user_message):
    options = {"tools": tools, "builtin_tools": builtin, "tools_in_user_message": in_user_message}
    chat = generation_spec([ChatMessage("user", "a")], options).chat
    assert toolset_from_wire(chat) == Toolset(tuple(tools), builtin, in_user_message)


def test_options_of_a_chat_need_one():
    for option, value in (("tools", []), ("date_string", "x"), ("builtin_tools", ["brave_search"])):
        with pytest.raises(InvalidRequest, match=f"chat.{option}: is set, but the prompt is not a"):
            generation_spec("text", {option: value})
