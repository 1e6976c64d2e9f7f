"""What the client library raises.

ClientError
├── InvalidRequest       the request is wrong; `field` names the part
├── MessageTooLarge      a message is over the transport's limit
├── Overloaded           the queue is full; try again after `retry_after` seconds
├── Unavailable          no server, or the connection broke
│   └── Draining         the server is shutting down
├── DeadlineExceeded     the timeout passed; `partial` holds what had arrived
├── Cancelled            this side cancelled the call
└── ServerError          the server failed; its log has the cause under `request_id`
"""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from edgellama.grpc_service.answer import Answer
from edgellama.grpc_service.errors import DOMAIN


class ClientError(Exception):
    """A call that failed; `reason` is the server's (docs/grpc.md), "" when it gave none."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        request_id: str = "",
        partial: Answer | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.request_id = request_id
        self.partial = partial


class InvalidRequest(ClientError):
    """The request is wrong; `field` is its name in GenerationSpec."""

    field: str = ""


class MessageTooLarge(ClientError):
    """A message is over the transport's limit."""


class Overloaded(ClientError):
    """The queue is full; `retry_after` is the server's advice in seconds."""

    retry_after: float = 1.0


class Unavailable(ClientError):
    """No server answers, or the connection broke."""


class Draining(Unavailable):
    """The server is shutting down."""


class DeadlineExceeded(ClientError):
    """The timeout passed; `partial` holds what had arrived of a stream."""


class Cancelled(ClientError):
    """This side cancelled the call."""


class ServerError(ClientError):
    """The server failed."""


_BY_CODE: dict[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    # Without our reason it is the transport's: only QUEUE_FULL carries one.
    grpc.StatusCode.RESOURCE_EXHAUSTED: MessageTooLarge,
}
_BY_REASON: dict[str, type[ClientError]] = {"QUEUE_FULL": Overloaded, "DRAINING": Draining}


def client_error(
    code: grpc.StatusCode,
    message: str,
    status: status_pb2.Status | None,
    partial: Answer | None = None,
) -> ClientError:
    """Return the exception of a failed call; `status` holds the details, where there are any."""
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details if status is not None else ():
        for target in (info, bad, retry):
            if detail.Is(target.DESCRIPTOR):
                detail.Unpack(target)
    reason = info.reason if info.domain == DOMAIN else ""
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, ServerError)
    error = kind(
        message or code.name,
        reason=reason,
        request_id=info.metadata.get("request_id", ""),
        partial=partial,
    )
    if isinstance(error, InvalidRequest) and bad.field_violations:
        error.field = bad.field_violations[0].field
    if isinstance(error, Overloaded):
        error.retry_after = retry.retry_delay.ToNanoseconds() * 1e-9
    return error


def from_rpc(error: grpc.RpcError, partial: Answer | None = None) -> ClientError:
    """Return the exception of a failed call, synchronous or not."""
    assert hasattr(error, "code"), "an RpcError of a started call"
    status = rpc_status.from_call(error)
    return client_error(error.code(), error.details() or "", status, partial)
