"""A small engine with the real one's interface: byte tokens, an echo for a model, no arithmetic."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgellama.profiles.model import ModelConfig
from edgellama.profiles.profile import Build, Device, Limits, Precision, Profile
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.event import (
    Admission,
    Delta,
    End,
    FinishReason,
    Timing,
    TokenLogprobs,
    Usage,
)
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


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Return once `condition` holds; fails the test after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.002)


BOS, EOS = 256, 257
VOCAB = 258
CAPACITY = 512


class Defaults:
    stop_ids: tuple[int, ...] = (EOS,)
    bos_id: int | None = BOS
    default_sampling: Sampling = Sampling(temperature=0.6, top_p=0.9)


class ByteCodec:
    """Token ids are bytes; 256 begins a text."""

    generation = Defaults()
    vocab_size = VOCAB
    has_chat_template = True
    chat_options = ()

    def guide(self, guide: Guide) -> None:
        """Take any: an echo obeys none."""

    def bad_words(self, words: tuple[str, ...]) -> None:
        """Take any: an echo draws nothing."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        if "tokenizer-bug" in text:
            raise KeyError("secret detail /etc/inside")
        return [BOS] * add_special_tokens + list(text.encode())

    def encode_chat(
        self,
        messages: list[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        tools: Toolset | None = None,
        date_string: str | None = None,
    ) -> list[int]:
        if tools is not None or date_string is not None:
            raise InvalidRequestError("chat.tools", "an echo calls none")
        text = "".join(f"<{m.role}>{m.content}" for m in messages)
        return self.encode(text + "<assistant>" * add_generation_prompt)

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        special = {BOS: "" if skip_special_tokens else "<bos>", EOS: ""}
        return "".join(special.get(i) or (chr(i) if i < 256 else "") for i in ids)


PROFILE = Profile(
    name="cpu-tiny",
    description="a fake",
    model="tiny",
    device=Device("cpu", 1.0, 1),
    build=Build("ort", "onnxruntime"),
    precision=Precision("fp32", "fp32", "fp32"),
    limits=Limits(slots=16, capacity=CAPACITY, prefill_chunk=64, max_queue=64),
)
MANIFEST = Manifest(
    profile=PROFILE,
    model=ModelConfig(VOCAB, 8, 16, 1, 2, 1, 4, 1024, 1e-5, 1e4, None, True),
    source="tiny",
    fingerprint="f" * 64,
    graph="model.onnx",
    inputs=(),
    outputs=(),
    kv=KvLayout(1, 1, 4, 16, CAPACITY, "float32"),
    files={},
    versions={},
    build={},
    verify={},
)


@dataclass
class Running:
    request: Request
    listener: object
    limit: int
    started: float = field(default_factory=time.monotonic)
    tokens: int = 0
    admitted: bool = False


class EchoEngine:
    """Answers with the prompt, over and over, one token a step for all requests together."""

    codec = ByteCodec()
    manifest = MANIFEST
    capacity = CAPACITY
    has_failed = False  # only single requests fail

    def __init__(self, *, step_seconds: float = 0.001, max_requests: int = 80) -> None:
        self.step_seconds = step_seconds
        self.max_requests = max_requests
        self.requests: list[Request] = []
        self.cancelled: list[tuple[str, float]] = []
        self.refusal: Exception | None = None  # raised by the next submits
        self.failing_at: int | None = None  # a request ends with ERROR at this token
        self._active: dict[str, Running] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def active(self) -> int:
        return len(self._active)

    def submit(self, request: Request, listener: object) -> str:
        if self.refusal is not None:
            raise self.refusal
        if len(request.prompt_ids) >= CAPACITY:
            raise InvalidRequestError("prompt", f"has {len(request.prompt_ids)} tokens")
        if request.n != 1:
            raise InvalidRequestError("n", "an echo has one output")
        if request.prompt_logprobs is not None:
            raise InvalidRequestError("prompt_logprobs", "an echo has none")
        limit = request.stop.max_new_tokens or CAPACITY - len(request.prompt_ids)
        with self._lock:
            if len(self._active) >= self.max_requests:
                raise QueueFullError(f"{self.max_requests} requests wait; try again later")
            self.requests.append(request)
            self._active[request.request_id] = Running(request, listener, limit)
        return request.request_id

    def cancel(self, request_id: str) -> bool:
        with self._lock:
            if request_id not in self._active:
                return False
            del self._active[request_id]
            self.cancelled.append((request_id, time.monotonic()))
            return True

    def steps(self) -> tuple[StepRecord, ...]:
        """Return nothing: an echo is not worth remembering."""
        return ()

    def drain(self, timeout: float | None = None) -> bool:
        self.refusal = DrainingError("draining")
        return not self._active

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._closing.wait(self.step_seconds):
            with self._lock:
                active = list(self._active.items())
            for request_id, running in active:
                self._advance(request_id, running)

    def _advance(self, request_id: str, running: Running) -> None:
        request, prompt = running.request, running.request.prompt_ids
        elapsed = time.monotonic() - running.started
        if not running.admitted:
            running.admitted = True
            seed = request.sampling.seed if request.sampling.seed is not None else 77
            running.listener(Admission(request_id, len(prompt), seed, running.limit, elapsed))
        failed = running.tokens == self.failing_at
        if not failed:
            body = [token for token in prompt if token < 256] or [46]
            token = body[running.tokens % len(body)]
            top = tuple((i, -1.0 - i) for i in range(request.top_logprobs or 0))
            logprobs = () if request.top_logprobs is None else (TokenLogprobs(-0.5, top),)
            running.listener(Delta(running.tokens, (token,), chr(token), logprobs))
            running.tokens += 1
        stop = request.stop.strings
        stopped = bool(stop) and not failed and stop[0] == chr(token)
        if failed or stopped or running.tokens == running.limit:
            with self._lock:
                if self._active.pop(request_id, None) is None:
                    return  # cancelled meanwhile
            reason = FinishReason.MAX_TOKENS
            if stopped:
                reason = FinishReason.STOP_STRING
            usage = Usage(len(prompt), running.tokens, 3)
            timing = Timing(0.001, 0.002, elapsed)
            if failed:
                running.listener(
                    End(FinishReason.ERROR, usage, timing, error="secret device state")
                )
            else:
                running.listener(End(reason, usage, timing, match=stop[0] if stopped else None))
