"""ControlService: what this server serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from edgellama.grpc_service import control_pb2 as pb
from edgellama.grpc_service.control_pb2_grpc import ControlServiceServicer
from edgellama.grpc_service.limits import MAX_MESSAGE_BYTES
from edgellama.grpc_service.spec import MAX_REQUEST_ID_CHARS, sampling_to_wire
from edgellama.grpc_service.step_wire import step_to_wire
from edgellama.runtime.request import (
    MAX_BAD_WORD_CHARS,
    MAX_BAD_WORD_TOKENS,
    MAX_BAD_WORDS,
    MAX_LOGPROBS,
    MAX_OUTPUTS,
    MAX_STOP_STRING_CHARS,
    MAX_STOP_STRINGS,
)
from edgellama.runtime.tools import MAX_TOOLS, MAX_TOOLS_CHARS

if TYPE_CHECKING:
    from edgellama.runtime.engine import Engine


def model_info(engine: Engine) -> pb.GetModelInfoResponse:
    """Return the description of an engine, taken from where the limits are enforced."""
    manifest, codec = engine.manifest, engine.codec
    profile = manifest.profile
    return pb.GetModelInfoResponse(
        model=manifest.source,
        fingerprint=manifest.fingerprint,
        profile=profile.name,
        target=profile.build.target,
        precision=pb.Precision(
            weights=profile.precision.weights,
            embedding=profile.precision.embedding,
            kv=profile.precision.kv,
        ),
        parameters=manifest.model.num_parameters,
        vocab_size=manifest.model.vocab_size,
        max_position_embeddings=manifest.model.max_position_embeddings,
        bos_id=codec.generation.bos_id,
        stop_ids=codec.generation.stop_ids,
        default_sampling=sampling_to_wire(codec.generation.default_sampling),
        has_chat_template=codec.has_chat_template,
        limits=pb.Limits(
            capacity=engine.capacity,
            slots=profile.limits.slots,
            max_queue=profile.limits.max_queue,
            max_stop_strings=MAX_STOP_STRINGS,
            max_stop_string_chars=MAX_STOP_STRING_CHARS,
            max_top_logprobs=MAX_LOGPROBS,
            max_request_id_chars=MAX_REQUEST_ID_CHARS,
            max_message_bytes=MAX_MESSAGE_BYTES,
            max_outputs=min(MAX_OUTPUTS, profile.limits.slots),
            max_bad_words=MAX_BAD_WORDS,
            max_bad_word_chars=MAX_BAD_WORD_CHARS,
            max_bad_word_tokens=MAX_BAD_WORD_TOKENS,
            max_tools=MAX_TOOLS,
            max_tools_chars=MAX_TOOLS_CHARS,
        ),
        chat_options=codec.chat_options,
    )


class ControlServicer(ControlServiceServicer):
    """Answers from a description made once and from the engine's memory of its steps.

    It works while the server drains.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._info = model_info(engine)

    async def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetModelInfoResponse:
        """Return the model, its defaults and the limits."""
        return self._info

    async def StreamSteps(
        self, request: pb.StreamStepsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.StreamStepsResponse]:
        """Return what the engine remembers of its last steps, the oldest first."""
        steps = self._engine.steps()
        if request.HasField("last"):
            steps = steps[max(len(steps) - request.last, 0) :]
        for step in steps:
            yield step_to_wire(step)
