"""Events cross from the engine's thread whole, in order, with few wakes."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.grpc_service.mailbox import Hub, Mailbox, merge_deltas
from edgellama.runtime.event import (
    Admission,
    Delta,
    End,
    FinishReason,
    Timing,
    TokenLogprobs,
    Usage,
)
from edgellama.runtime.tools import ToolCall

ADMISSION = Admission("r", 1, 0, 9, 0.0)
END = End(FinishReason.EOS, Usage(1, 2), Timing(0.0, 0.0, 0.0))


def delta(offset: int, *ids: int) -> Delta:
    text = "".join(chr(97 + i % 26) for i in ids)
    return Delta(offset, ids, text, tuple(TokenLogprobs(-float(i)) for i in ids))


def test_merging_keeps_calls_and_where_they_begin():
    calls = tuple(ToolCall("f", "{}", str(number)) for number in range(3))
    run = [Delta(4, (1,), "", (), 1, (), 2), Delta(5, (2,), "", (), 1, calls[:2], 2)]
    run.append(Delta(6, (3,), "", (), 1, calls[2:], 4))
    assert merge_deltas(run) == [Delta(4, (1, 2, 3), "", (), 1, calls, 2)]


class CountingLoop:
    """Counts the wakes of a real loop."""

    def __init__(self) -> None:
        self.wakes = 0
        self._loop = asyncio.get_running_loop()

    def call_soon_threadsafe(self, callback) -> None:
        self.wakes += 1
        self._loop.call_soon_threadsafe(callback)


@given(st.lists(st.lists(st.integers(0, 300), max_size=4), max_size=12), st.booleans())
def test_merging_keeps_tokens_text_and_logprobs(pieces, admitted):
    deltas, offset = [], 0
    for ids in pieces:
        deltas.append(delta(offset, *ids))
        offset += len(ids)
    events = [ADMISSION] * admitted + deltas + [END]
    merged = merge_deltas(events)
    whole = [event for event in merged if isinstance(event, Delta)]
    assert len(whole) == (1 if pieces else 0)
    assert [type(event) for event in merged] == (
        [Admission] * admitted + [Delta] * len(whole) + [End]
    )
    for event in whole:
        assert event.token_offset == 0
        assert event.token_ids == tuple(i for ids in pieces for i in ids)
        assert event.text == "".join(piece.text for piece in deltas)
        assert len(event.logprobs) == len(event.token_ids)


def test_outputs_are_merged_each_for_itself():
    def of(index, event):
        return replace(event, index=index)

    ended = replace(END, index=1, outputs_left=1)
    call = ToolCall("f", "{}", "1")
    calling = replace(of(1, delta(1, 3)), tool_calls=(call,))
    events = [of(1, delta(0, 1)), of(0, delta(0, 2)), calling, ended, of(0, delta(1, 4))]
    assert merge_deltas(events) == [
        replace(of(1, delta(0, 1, 3)), tool_calls=(call,)),
        of(0, delta(0, 2)),
        ended,
        of(0, delta(1, 4)),
    ]


async def test_one_wake_for_many_mailboxes_and_events():
    loop = CountingLoop()
    hub = Hub(loop)
    boxes = [Mailbox(hub) for _ in range(8)]
    for offset in range(5):
        for box in boxes:
            box.put(delta(offset, offset))
    assert loop.wakes == 1
    for box in boxes:
        assert [event.token_ids for event in await box.take()] == [(0, 1, 2, 3, 4)]
    boxes[0].put(END)
    assert loop.wakes == 2
    assert await boxes[0].take() == [END]


async def test_unary_mailbox_wakes_at_the_end_only():
    loop = CountingLoop()
    box = Mailbox(Hub(loop), at_end=True)
    for event in (ADMISSION, delta(0, 1), delta(1, 2)):
        box.put(event)
    first = replace(END, outputs_left=1)
    box.put(first)
    assert loop.wakes == 0 and not box.ended
    box.put(replace(END, index=1))
    assert box.ended
    assert await box.take() == [ADMISSION, delta(0, 1, 2), first, replace(END, index=1)]


async def test_nothing_is_lost_between_a_busy_thread_and_a_busy_reader():
    hub = Hub(asyncio.get_running_loop())
    boxes = [Mailbox(hub) for _ in range(4)]
    count = 3000

    def produce() -> None:
        for offset in range(count):
            for box in boxes:
                box.put(delta(offset, offset))
        for box in boxes:
            box.put(END)

    async def consume(box: Mailbox) -> list[int]:
        ids: list[int] = []
        while True:
            for event in await box.take():
                if isinstance(event, End):
                    return ids
                assert event.token_offset == len(ids)
                ids.extend(event.token_ids)

    thread = threading.Thread(target=produce)
    thread.start()
    results = await asyncio.wait_for(asyncio.gather(*map(consume, boxes)), 10)
    thread.join()
    assert results == [list(range(count))] * 4


async def test_failure_wakes_the_reader():
    box = Mailbox(Hub(asyncio.get_running_loop()))
    reading = asyncio.ensure_future(box.take())
    await asyncio.sleep(0)
    box.fail(RuntimeError("stopped"))
    with pytest.raises(RuntimeError, match="stopped"):
        await asyncio.wait_for(reading, 1)


async def test_closed_hub_takes_late_events_in_silence():
    loop = CountingLoop()
    hub = Hub(loop)
    hub.close()
    Mailbox(hub).put(END)
    assert loop.wakes == 0
