"""What a token costs on its way through messages: built, written to bytes and read again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from edgellama.grpc_service import generation_pb2 as pb
from edgellama.grpc_service.events import delta_from_wire, delta_to_wire
from edgellama.runtime.event import Delta

_ROUNDS = 5


def message_seconds(deltas: Sequence[Delta]) -> float:
    """Return the seconds of one message, server's and client's part together; no socket.

    The median of some rounds over all deltas.
    """
    want = pb.Want(token_ids=True)
    rounds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for delta in deltas:
            message = pb.StreamGenerateResponse(delta=delta_to_wire(delta, want))
            read = pb.StreamGenerateResponse.FromString(message.SerializeToString())
            delta_from_wire(read.delta)
        rounds.append((time.perf_counter() - began) / len(deltas))
    return median(rounds)
