"""How failures are told to clients: one table of reason, status code and retryability."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from edgellama.grpc_service.retry_delay import RetryDelay
from edgellama.grpc_service.spec import MAX_REQUEST_ID_CHARS
from edgellama.runtime.request import (
    DrainingError,
    EngineFailedError,
    InvalidRequestError,
    QueueFullError,
)

DOMAIN = "edgellama"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """One kind of failure; `reason` is `ErrorInfo.reason`, `message` is sent unless None.

    Where `message` is None the exception's own text is sent: it was written for the client.
    """

    reason: str
    code: grpc.StatusCode
    retryable: bool
    message: str | None = None


INVALID_REQUEST = Failure("INVALID_REQUEST", grpc.StatusCode.INVALID_ARGUMENT, False)
QUEUE_FULL = Failure("QUEUE_FULL", grpc.StatusCode.RESOURCE_EXHAUSTED, True)
DRAINING = Failure("DRAINING", grpc.StatusCode.UNAVAILABLE, True)
ENGINE_FAILED = Failure(
    "ENGINE_FAILED",
    grpc.StatusCode.INTERNAL,
    False,
    "the engine failed; the server's log has the cause under this request_id",
)
INTERNAL = Failure(
    "INTERNAL",
    grpc.StatusCode.INTERNAL,
    False,
    "unexpected error; the server's log has the cause under this request_id",
)
FAILURES = (INVALID_REQUEST, QUEUE_FULL, DRAINING, ENGINE_FAILED, INTERNAL)

_BY_TYPE: tuple[tuple[type[Exception], Failure], ...] = (
    (InvalidRequestError, INVALID_REQUEST),
    (QueueFullError, QUEUE_FULL),
    (DrainingError, DRAINING),
    (EngineFailedError, ENGINE_FAILED),
)


def failure_of(error: Exception) -> Failure:
    """Return the row of an exception; INTERNAL for one that no row names."""
    return next((row for kind, row in _BY_TYPE if isinstance(error, kind)), INTERNAL)


def status_of(error: Exception, request_id: str, retry_seconds: float) -> status_pb2.Status:
    """Return the status with its details; `retry_seconds` goes out with QUEUE_FULL."""
    failure = failure_of(error)
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=failure.reason,
            domain=DOMAIN,
            metadata={"request_id": request_id, "retryable": str(failure.retryable).lower()},
        )
    ]
    if isinstance(error, InvalidRequestError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if failure is QUEUE_FULL:
        delay = Duration()
        delay.FromNanoseconds(int(retry_seconds * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        entry = AnyMessage()
        entry.Pack(detail)
        packed.append(entry)
    message = str(error) if failure.message is None else failure.message
    return status_pb2.Status(code=failure.code.value[0], message=message, details=packed)


@asynccontextmanager
async def failures_reported(
    context: grpc.aio.ServicerContext[Any, Any], request_id: str, retry: RetryDelay
) -> AsyncIterator[None]:
    """End the call with the right status when the body raises.

    grpc would send the text of any exception to the client; only texts written for clients leave
    here, the others go to the log beside the request id.
    """
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        failure = failure_of(error)
        shown = request_id[:MAX_REQUEST_ID_CHARS]  # may be what is being refused
        if failure.message is None:
            _log.info("request %r refused: %s", shown, failure.reason)
        else:
            _log.error("request %r failed: %s", shown, failure.reason, exc_info=error)
        status = status_of(error, shown, retry.seconds)
        await context.abort_with_status(rpc_status.to_status(status))
