"""The synchronous client library."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edgellama.grpc_service import control_pb2, generation_pb2
from edgellama.grpc_service.answer import Answer, Completion, completion_from_wire
from edgellama.grpc_service.call import (
    GenerateOptions,
    Prompt,
    PromptOptions,
    generation_spec,
    steps_request,
    tokenize_request,
)
from edgellama.grpc_service.client_errors import DeadlineExceeded, Unavailable, from_rpc
from edgellama.grpc_service.control_pb2_grpc import ControlServiceStub
from edgellama.grpc_service.generation_pb2_grpc import GenerationServiceStub
from edgellama.grpc_service.limits import CLIENT_OPTIONS
from edgellama.grpc_service.step_wire import step_from_wire
from edgellama.runtime.chat import ChatMessage
from edgellama.runtime.event import Delta
from edgellama.runtime.step_record import StepRecord

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")
DEFAULT_TIMEOUT = 300.0  # seconds for a generation
SHORT_TIMEOUT = 30.0  # seconds for a call that does not generate


class Stream(Answer):
    """A running generation: iterate over its Deltas; what it has so far are its properties.

    Leaving the loop early, leaving a `with` block or `close` cancels it on the server.
    """

    def __init__(self, call: Any) -> None:
        super().__init__()
        self._call = call

    def __iter__(self) -> Iterator[Delta]:
        try:
            for message in self._call:
                delta = self.add(message)
                if delta is not None:
                    yield delta
        except grpc.RpcError as error:
            raise from_rpc(error, self) from None
        finally:
            self.close()

    def close(self) -> None:
        """Cancel the generation unless it has ended."""
        self._call.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Client:
    """Talks to one server: `with Client("HOST:PORT") as client:`. Safe to share by threads.

    Every method raises ClientError (see client_errors). `timeout` is in seconds and becomes the
    deadline that the server sees.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._channel = grpc.insecure_channel(target, options=CLIENT_OPTIONS)
        self._generation = GenerationServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._control = ControlServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def generate(
        self,
        prompt: Prompt,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        **options: Unpack[GenerateOptions],
    ) -> Completion:
        """Return the whole answer to a text, token ids or a conversation."""
        request = generation_pb2.GenerateRequest(spec=generation_spec(prompt, options))
        return completion_from_wire(
            _checked(lambda: self._generation.Generate(request, timeout=timeout))
        )

    def stream(
        self,
        prompt: Prompt,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        **options: Unpack[GenerateOptions],
    ) -> Stream:
        """Return the running generation; its errors are raised where it is read."""
        request = generation_pb2.StreamGenerateRequest(spec=generation_spec(prompt, options))
        return Stream(self._generation.StreamGenerate(request, timeout=timeout))

    def tokenize(
        self,
        text: str | Sequence[ChatMessage],
        *,
        timeout: float = SHORT_TIMEOUT,
        **options: Unpack[PromptOptions],
    ) -> tuple[int, ...]:
        """Return the token ids of a text or a conversation."""
        request = tokenize_request(text, options)
        return tuple(_checked(lambda: self._generation.Tokenize(request, timeout=timeout)).ids)

    def detokenize(
        self, ids: Sequence[int], *, special_tokens: bool = False, timeout: float = SHORT_TIMEOUT
    ) -> str:
        """Return the text of token ids."""
        request = generation_pb2.DetokenizeRequest(ids=ids, special_tokens=special_tokens)
        return str(_checked(lambda: self._generation.Detokenize(request, timeout=timeout)).text)

    def model_info(self, *, timeout: float = SHORT_TIMEOUT) -> control_pb2.GetModelInfoResponse:
        """Return the model, its defaults and the limits."""
        request = control_pb2.GetModelInfoRequest()
        info: control_pb2.GetModelInfoResponse = _checked(
            lambda: self._control.GetModelInfo(request, timeout=timeout)
        )
        return info

    def steps(
        self, *, last: int | None = None, timeout: float = SHORT_TIMEOUT
    ) -> tuple[StepRecord, ...]:
        """Return what the engine remembers of its `last` steps, None of all, the oldest first."""
        request = steps_request(last)
        answers = _checked(lambda: list(self._control.StreamSteps(request, timeout=timeout)))
        return tuple(step_from_wire(answer) for answer in answers)

    def wait_ready(self, timeout: float = SHORT_TIMEOUT) -> None:
        """Return once the server serves; raises Unavailable after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        last = "no answer"
        while (left := deadline - time.monotonic()) > 0:
            try:
                answer = self._health.Check(
                    health_pb2.HealthCheckRequest(), timeout=left, wait_for_ready=True
                )
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                last = f"its health is {answer.ServingStatus.Name(answer.status)}"
            except grpc.RpcError as error:
                failure = from_rpc(error)
                if not isinstance(failure, DeadlineExceeded):  # which would hide the cause
                    last = str(failure)
            time.sleep(min(0.05, max(deadline - time.monotonic(), 0)))
        raise Unavailable(f"{self._target} is not ready after {timeout:g} s: {last}")

    def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _checked(call: Callable[[], T]) -> T:
    try:
        return call()
    except grpc.RpcError as error:
        raise from_rpc(error) from None
