"""An engine without arithmetic: what serving costs when the model costs nothing.

python -m edgellama.benchmark.echo_engine --step-ms 1 serves it on a free port and prints the
document of `edgellama serve --json`.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from edgellama.grpc_service.serve import serve
from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Build, Device, Limits, Precision, Profile
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.event import Admission, Delta, End, Event, FinishReason, Timing, Usage
from edgellama.runtime.guide import Guide
from edgellama.runtime.manifest import KvLayout, Manifest
from edgellama.runtime.request import (
    DrainingError,
    InvalidRequestError,
    QueueFullError,
    Request,
    Sampling,
)
from edgellama.runtime.step_record import StepRecord
from edgellama.runtime.tools import Toolset

if TYPE_CHECKING:
    from edgellama.runtime.engine import Engine
    from edgellama.runtime.guide_matcher import GuideMatcher

VOCAB = 256  # a byte a token


class EchoDefaults:
    """What a model's authors set: nothing ends a text."""

    bos_id: int | None = None
    stop_ids: tuple[int, ...] = ()
    default_sampling = Sampling(temperature=0.0)


class ByteCodec:
    """Token ids are the codes of the first 256 characters."""

    generation = EchoDefaults()
    vocab_size = VOCAB
    has_chat_template = False
    chat_options: tuple[str, ...] = ()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the bytes of the UTF-8 text."""
        return list(text.encode())

    def encode_chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        tools: Toolset | None = None,
        date_string: str | None = None,
    ) -> list[int]:
        """Refuse: there is no template."""
        raise InvalidRequestError("chat", "the echo engine has no chat template; send token ids")

    def guide(self, guide: Guide) -> GuideMatcher:
        """Refuse: an echo obeys nothing."""
        raise InvalidRequestError("guide", "the echo engine obeys none; leave it out")

    def bad_words(self, words: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """Refuse: an echo draws nothing."""
        raise InvalidRequestError("sampling.bad_words", "the echo engine draws none; leave it out")

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return a character a token."""
        return "".join(map(chr, ids))


@dataclass
class Running:
    """A request and how far it is; times on the monotonic clock."""

    request: Request
    listener: Callable[[Event], None]
    limit: int
    submitted: float
    admitted: float | None = None
    first_token: float = 0.0
    tokens: int = 0


class EchoEngine:
    """Answers with the prompt, over and over: a token for each of `slots` requests every step.

    It has the interface of `Engine` as far as a server needs it. `step_seconds` 0 steps as fast as
    the thread can. At most `slots` requests run and `max_queue` wait, as in a real engine.
    """

    has_failed = False

    def __init__(
        self,
        *,
        step_seconds: float,
        slots: int = 16,
        capacity: int = 2048,
        max_queue: int = 64,
    ) -> None:
        self.codec = ByteCodec()
        self.capacity = capacity
        self.manifest = _manifest(slots, capacity, max_queue)
        self._step_seconds = step_seconds
        self._slots = slots
        self._active: dict[str, Running] = {}  # in the order of arrival
        self._most = slots + max_queue
        self._draining = self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="echo", daemon=True)
        self._thread.start()

    def submit(self, request: Request, listener: Callable[[Event], None]) -> str:
        """Queue a request; raises InvalidRequestError, QueueFullError or DrainingError."""
        if request.n != 1:
            raise InvalidRequestError("n", f"is {request.n}; the echo engine has one output each")
        if request.prompt_logprobs is not None:
            raise InvalidRequestError("prompt_logprobs", "the echo engine has none; leave it out")
        room = self.capacity - len(request.prompt_ids)
        limit = room if request.stop.max_new_tokens is None else request.stop.max_new_tokens
        if not 1 <= limit <= room:
            raise InvalidRequestError(
                "prompt",
                f"has {len(request.prompt_ids)} tokens and wants {limit} more; a slot holds "
                f"{self.capacity}",
            )
        request_id = request.request_id or uuid.uuid4().hex
        with self._changed:
            if self._draining:
                raise DrainingError("the echo engine takes no new request")
            if len(self._active) >= self._most:
                raise QueueFullError(f"{self._most} requests run or wait; try again later")
            self._active[request_id] = Running(request, listener, limit, time.monotonic())
            self._changed.notify_all()
        return request_id

    def cancel(self, request_id: str) -> bool:
        """Drop a request; False when it is not active (any more)."""
        with self._changed:
            gone = self._active.pop(request_id, None) is not None
            self._changed.notify_all()
        return gone

    def steps(self) -> tuple[StepRecord, ...]:
        """Return nothing: an echo is not worth remembering."""
        return ()

    def drain(self, timeout: float | None = None) -> bool:
        """Take no new request and wait for the others; False when `timeout` was short."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._active, timeout)

    def close(self) -> None:
        """Stop the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def step(self) -> None:
        """Give a token to every request that holds a slot."""
        with self._changed:
            running = list(self._active.items())[: self._slots]
        for request_id, one in running:
            self._advance(request_id, one)

    def _work(self) -> None:
        due = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._active or self._closing)
                if self._closing:
                    return
            due = max(due + self._step_seconds, time.monotonic())
            self.step()
            time.sleep(max(due + self._step_seconds - time.monotonic(), 0.0))

    def _advance(self, request_id: str, one: Running) -> None:
        now, prompt = time.monotonic(), one.request.prompt_ids
        if one.admitted is None:
            one.admitted, one.first_token = now, now
            queued = now - one.submitted
            one.listener(Admission(request_id, len(prompt), 0, one.limit, queued))
        token = prompt[one.tokens % len(prompt)] % VOCAB
        one.listener(Delta(one.tokens, (token,), chr(token)))
        one.tokens += 1
        if one.tokens < one.limit:
            return
        with self._changed:
            if self._active.pop(request_id, None) is None:
                return  # cancelled meanwhile
            self._changed.notify_all()
        timing = Timing(
            one.admitted - one.submitted,
            one.first_token - one.submitted,
            time.monotonic() - one.submitted,
        )
        one.listener(End(FinishReason.MAX_TOKENS, Usage(len(prompt), one.tokens), timing))


def as_engine(echo: EchoEngine) -> Engine:
    """Return the engine for a server, which calls no more of an Engine than this class has."""
    return cast("Engine", echo)


def _manifest(slots: int, capacity: int, max_queue: int) -> Manifest:
    """Describe the least model that the records take."""
    profile = Profile(
        name="echo",
        description="no model: tokens of the prompt",
        model="echo",
        device=Device("cpu", 1.0, 1),
        build=Build("ort", "onnxruntime"),
        precision=Precision("fp32", "fp32", "fp32"),
        limits=Limits(slots=slots, capacity=capacity, prefill_chunk=1, max_queue=max_queue),
    )
    return Manifest(
        profile=profile,
        model=ModelConfig(VOCAB, 2, 2, 1, 1, 1, 2, capacity, 1e-5, 1e4, None, True),
        source="echo",
        fingerprint="",
        graph="",
        inputs=(),
        outputs=(),
        kv=KvLayout(1, 1, 2, slots, capacity, "float32"),
        files={},
        versions={},
        build={},
        verify={},
    )


def main() -> None:
    """Serve until a signal says stop."""
    parser = argparse.ArgumentParser(prog="python -m edgellama.benchmark.echo_engine")
    parser.add_argument("--step-ms", type=float, required=True, help="0: as fast as possible.")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--capacity", type=int, required=True)
    given = parser.parse_args()
    echo = EchoEngine(step_seconds=given.step_ms * 1e-3, slots=given.slots, capacity=given.capacity)

    def ready(target: str) -> None:
        document = {"target": target, "engine": "echo", "pid": os.getpid()}
        print(json.dumps(document, indent=2), flush=True)

    try:
        serve(as_engine(echo), port=0, grace_seconds=0.0, ready=ready)
    finally:
        echo.close()


if __name__ == "__main__":
    main()
