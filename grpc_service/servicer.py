"""GenerationService: translates between the wire and the engine, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from edgellama.grpc_service import events
from edgellama.grpc_service import generation_pb2 as pb
from edgellama.grpc_service.errors import failures_reported
from edgellama.grpc_service.gate import Gate
from edgellama.grpc_service.generation_pb2_grpc import GenerationServiceServicer
from edgellama.grpc_service.mailbox import Hub, Mailbox
from edgellama.grpc_service.retry_delay import RetryDelay
from edgellama.grpc_service.spec import (
    check_request_id,
    mint_request_id,
    on_the_wire,
    prompt_ids,
    request_from_wire,
)
from edgellama.grpc_service.text_pool import TextPool
from edgellama.runtime.completion import timing_of_all, usage_of_all
from edgellama.runtime.event import Admission, Delta, End, FinishReason, PromptLogprobs
from edgellama.runtime.request import DrainingError, EngineFailedError, InvalidRequestError, Request
from edgellama.runtime.rule import compile_rule

if TYPE_CHECKING:
    from edgellama.runtime.engine import Engine

Context = grpc.aio.ServicerContext[Any, Any]


class GenerationServicer(GenerationServiceServicer):
    """Serves one engine; every method runs on the event loop and never blocks it."""

    def __init__(
        self,
        engine: Engine,
        *,
        hub: Hub,
        gate: Gate,
        texts: TextPool,
        retry: RetryDelay,
    ) -> None:
        self.engine_failed = asyncio.Event()  # set once the engine refuses all requests
        self._engine = engine
        self._hub = hub
        self._gate = gate
        self._texts = texts
        self._retry = retry
        self._open: set[Mailbox] = set()
        self._stopped: Exception | None = None

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Generate the answers and return them whole."""
        spec = request.spec
        request_id = spec.request_id or mint_request_id()
        response = pb.GenerateResponse()
        async with failures_reported(context, request_id, self._retry):
            with self._gate:
                wanted = await self._request(spec, request_id)
                with self._submitted(spec, wanted, context, at_end=True) as mailbox:
                    got = await mailbox.take()
            ends = [event for event in got if isinstance(event, End)]
            assert len(ends) == wanted.n, "the mailbox woke the unary call before the end"
            for end in ends:  # the one that failed comes before those cancelled for it
                self._check_end(end)
            for event in got:
                if isinstance(event, Admission):
                    response.admission.CopyFrom(events.admission_to_wire(event))
            prompt = [event for event in got if isinstance(event, PromptLogprobs)]
            if prompt:
                response.prompt_logprobs.CopyFrom(events.prompt_to_wire(prompt))
            for end in sorted(ends, key=lambda end: end.index):
                deltas = (e for e in got if isinstance(e, Delta) and e.index == end.index)
                response.outputs.append(events.output_to_wire(deltas, end, spec.want))
            response.usage.CopyFrom(events.usage_to_wire(usage_of_all(ends)))
            response.timing.CopyFrom(events.timing_to_wire(timing_of_all(ends)))
        return response

    async def StreamGenerate(self, request: pb.StreamGenerateRequest, context: Context) -> None:
        """Generate the answers and write their events as they come."""
        spec = request.spec
        request_id = spec.request_id or mint_request_id()
        async with failures_reported(context, request_id, self._retry):
            with self._gate:
                wanted = await self._request(spec, request_id)
                with self._submitted(spec, wanted, context, at_end=False) as mailbox:
                    ends: list[End] = []
                    while len(ends) < wanted.n:
                        ends += await self._write(mailbox, spec.want, context)
                    stream_end = pb.StreamEnd(
                        usage=events.usage_to_wire(usage_of_all(ends)),
                        timing=events.timing_to_wire(timing_of_all(ends)),
                    )
                    await context.write(pb.StreamGenerateResponse(stream_end=stream_end))

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Return the ids of a text or a chat."""
        response = pb.TokenizeResponse(capacity=self._engine.capacity)
        async with failures_reported(context, mint_request_id(), self._retry):
            with self._gate:
                try:
                    job = partial(prompt_ids, request, self._engine.codec)
                    response.ids.extend(await self._texts.run(job))
                except InvalidRequestError as error:
                    raise on_the_wire(error, request) from error
        return response

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        """Return the text of ids."""
        codec, vocab_size = self._engine.codec, self._engine.manifest.model.vocab_size
        response = pb.DetokenizeResponse()
        async with failures_reported(context, mint_request_id(), self._retry):
            with self._gate:
                ids = tuple(request.ids)
                if ids and max(ids) >= vocab_size:
                    raise InvalidRequestError(
                        "ids", f"has {max(ids)}; ids must be in [0, {vocab_size})"
                    )
                skip = not request.special_tokens
                job = partial(codec.decode, ids, skip_special_tokens=skip)
                response.text = await self._texts.run(job)
        return response

    def stop_open(self, error: Exception) -> None:
        """End every generation in flight with the status of `error`."""
        self._stopped = error  # for those whose prompt is still being tokenised
        for mailbox in self._open:
            mailbox.fail(error)

    async def _request(self, spec: pb.GenerationSpec, request_id: str) -> Request:
        check_request_id(request_id)
        codec = self._engine.codec
        try:
            ids = await self._texts.run(partial(prompt_ids, spec, codec))
            wanted = request_from_wire(spec, ids, request_id, codec.generation.default_sampling)
            # Done here and kept by the codec, for the event loop has no time for it.
            if wanted.is_ruled:
                await self._texts.run(partial(compile_rule, wanted, codec))
            if wanted.sampling.bad_words:
                await self._texts.run(partial(codec.bad_words, wanted.sampling.bad_words))
            return wanted
        except InvalidRequestError as error:
            raise on_the_wire(error, spec) from error

    @contextmanager
    def _submitted(
        self, spec: pb.GenerationSpec, request: Request, context: Context, *, at_end: bool
    ) -> Iterator[Mailbox]:
        """Give the request to the engine; on the way out it is cancelled unless it has ended."""
        if self._stopped is not None:
            raise self._stopped
        mailbox = Mailbox(self._hub, at_end=at_end)
        try:
            request_id = self._engine.submit(request, mailbox.put)
        except InvalidRequestError as error:
            raise on_the_wire(error, spec) from error
        except EngineFailedError:
            self.engine_failed.set()
            raise

        def cancel(_: object = None) -> None:
            # After its end the id may belong to another request already.
            if not mailbox.ended:
                self._engine.cancel(request_id)

        # Both ways out: the callback fires as soon as the client is gone, also while the handler
        # waits in a write; `finally` covers failures of the handler itself.
        context.add_done_callback(cancel)  # type: ignore[arg-type]  # the stub asks for a class
        self._open.add(mailbox)
        try:
            yield mailbox
        finally:
            self._open.discard(mailbox)
            cancel()

    async def _write(self, mailbox: Mailbox, want: pb.Want, context: Context) -> list[End]:
        """Write the events that are there; returns the Ends among them."""
        ends = []
        for event in await mailbox.take():
            if isinstance(event, Admission):
                message = pb.StreamGenerateResponse(admission=events.admission_to_wire(event))
            elif isinstance(event, PromptLogprobs):
                prompt = events.prompt_to_wire([event])
                message = pb.StreamGenerateResponse(prompt_logprobs=prompt)
            elif isinstance(event, Delta):
                message = pb.StreamGenerateResponse(delta=events.delta_to_wire(event, want))
            else:
                self._check_end(event)
                ends.append(event)
                output_end = events.output_end_to_wire(event)
                message = pb.StreamGenerateResponse(output_end=output_end)
            await context.write(message)
        return ends

    def _check_end(self, end: End) -> None:
        """Raise for an end that is a failure of the call."""
        if end.reason is FinishReason.ERROR:
            if self._engine.has_failed:
                self.engine_failed.set()
            raise EngineFailedError(end.error or "the engine gave no cause")
        if end.reason is FinishReason.CANCELLED:  # not by this call, or nobody would be here
            raise DrainingError("the engine stopped before the answer was complete")
        self._retry.observe(end.timing.total - end.timing.queue)
