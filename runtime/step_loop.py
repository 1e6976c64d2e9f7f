"""The engine's thread: it steps the model for everyone until it is told to stop."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgellama.runtime.backend import Logits, ScoringBackend
from edgellama.runtime.draw_step import accept, draw_rows, follow_draft
from edgellama.runtime.event import Event, FinishReason, PromptLogprobs
from edgellama.runtime.generation import Generation
from edgellama.runtime.request import DrainingError, EngineFailedError, InvalidRequestError
from edgellama.runtime.run_step import run_step
from edgellama.runtime.sampling import Sampler
from edgellama.runtime.scheduler import Scheduler
from edgellama.runtime.step import Step
from edgellama.runtime.step_record import KEPT_STEPS, StepRecord
from edgellama.runtime.step_seconds import StepClock, StepSeconds

if TYPE_CHECKING:
    from edgellama.runtime.text import TextCodec

_LOG = logging.getLogger(__name__)
_FAILED = "the engine failed in a step; its log has the reason"
_REQUEST_FAILED = "the request failed in the engine; its log has the reason"


@dataclass(frozen=True)
class EngineStats:
    """Outputs of requests and slots now, and totals since the load.

    Of the prompts, `prompt_tokens` were computed and `cached_prompt_tokens` found in the cache.
    `restored_tokens` were brought into a slot from the store of prefixes on the host, which takes
    `stored_bytes` now.
    `preemptions` counts the slots that running requests lost to others; what is computed again for
    it is in `prompt_tokens` again. `drafted_tokens` were guessed and computed beside the newest;
    `accepted_tokens` of them were right, and are among `output_tokens`. `run_seconds` is the part
    of `seconds.backend` in which the model itself ran.
    """

    running: int
    waiting: int
    free_slots: int
    steps: int
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    preemptions: int
    drafted_tokens: int
    accepted_tokens: int
    seconds: StepSeconds
    run_seconds: float
    restored_tokens: int
    stored_bytes: int


class StepLoop:
    """Owns the scheduler and the requests in it; every public method may be called by any thread.

    Backend, sampler and listeners are used on the loop's own thread only, without the lock.
    """

    def __init__(
        self, backend: ScoringBackend, codec: TextCodec, sampler: Sampler, scheduler: Scheduler
    ) -> None:
        self._backend = backend
        self._codec = codec
        self._sampler = sampler
        self._changed = threading.Condition()  # guards all below; notified on every change
        self._scheduler = scheduler
        self._active: dict[str, Generation] = {}
        self._requests: dict[str, list[Generation]] = {}  # the same by request
        self._to_cancel: list[Generation] = []
        self._undelivered = 0  # outputs whose End no listener has seen yet
        self._is_draining = False
        self._is_closing = False
        self._is_failed = False
        self._steps = 0
        self._prompt_tokens = 0
        self._cached_prompt_tokens = 0
        self._output_tokens = 0
        self._drafted_tokens = 0
        self._accepted_tokens = 0
        self._records: deque[StepRecord] = deque(maxlen=KEPT_STEPS)
        self._seconds = StepSeconds()  # written by the loop's thread alone
        # A daemon: a program that forgets to close still exits.
        self._thread = threading.Thread(target=self._work, name="edgellama-engine", daemon=True)
        self._thread.start()

    @property
    def has_failed(self) -> bool:
        """Whether a step failed, after which every request is refused."""
        return self._is_failed

    def add(self, outputs: list[Generation]) -> None:
        """Queue the outputs of a request.

        Raises InvalidRequestError, QueueFullError, DrainingError or EngineFailedError.
        """
        with self._changed:
            if self._is_failed:
                raise EngineFailedError("the engine failed in an earlier step; load it again")
            if self._is_draining:
                raise DrainingError("the engine is shutting down and takes no new request")
            for each in outputs:
                if each.id in self._requests or each.id in self._active:
                    raise InvalidRequestError(
                        "request_id", f"{each.id!r} is in use by an active request; choose another"
                    )
            first, *siblings = (each.sequence for each in outputs)
            self._scheduler.add(first, siblings)
            self._active.update((each.id, each) for each in outputs)
            self._requests[first.id] = outputs
            self._undelivered += len(outputs)
            self._changed.notify_all()

    def cancel(self, request_id: str) -> bool:
        """Stop a request before the next step; False when it is not active (any more)."""
        with self._changed:
            outputs = self._requests.get(request_id)
            if outputs is None:
                return False
            for generation in outputs:
                if not generation.is_cancelled:
                    generation.is_cancelled = True
                    self._to_cancel.append(generation)
            self._changed.notify_all()
            return True

    def stats(self) -> EngineStats:
        """Return the counts of this moment."""
        with self._changed:
            return EngineStats(
                running=self._scheduler.num_running,
                waiting=self._scheduler.num_waiting,
                free_slots=self._scheduler.num_free_slots,
                steps=self._steps,
                prompt_tokens=self._prompt_tokens,
                cached_prompt_tokens=self._cached_prompt_tokens,
                output_tokens=self._output_tokens,
                preemptions=self._scheduler.preemptions,
                drafted_tokens=self._drafted_tokens,
                accepted_tokens=self._accepted_tokens,
                seconds=replace(self._seconds),
                run_seconds=self._backend.run_seconds,
                restored_tokens=self._scheduler.store.restored_tokens,
                stored_bytes=self._scheduler.store.bytes,
            )

    def steps(self) -> tuple[StepRecord, ...]:
        """Return what is remembered of the last KEPT_STEPS steps, the oldest first."""
        with self._changed:
            return tuple(self._records)

    def drain(self, timeout: float | None) -> bool:
        """Take no new request and wait for the others; False when `timeout` seconds were short."""
        with self._changed:
            self._is_draining = True
            return self._changed.wait_for(lambda: self._undelivered == 0, timeout)

    def stop(self) -> None:
        """Cancel what still runs and wait for the end of the thread."""
        with self._changed:
            self._is_draining = True
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def is_current(self) -> bool:
        """Whether the caller is a listener on the loop's own thread."""
        return threading.current_thread() is self._thread

    # Everything below runs on the loop's thread.

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_closing or self._to_cancel or self._scheduler.has_work
                )
                if self._is_closing:
                    break
            try:
                self._turn()
            except Exception:  # the backend's, or a bug here: nobody may be left waiting
                _LOG.exception("step %d failed; the engine takes no further request", self._steps)
                with self._changed:
                    self._is_failed = True
                self._end_all(FinishReason.ERROR, _FAILED)
        self._end_all(FinishReason.CANCELLED)

    def _turn(self) -> None:
        """Cancel, admit, run one step."""
        clock = StepClock(self._seconds)
        with self._changed:
            cancelled = [g for g in self._to_cancel if g.reason is None]
            self._to_cancel.clear()
            for generation in cancelled:
                self._scheduler.cancel(generation.id)
        for generation in cancelled:
            self._end(generation, FinishReason.CANCELLED)
        with self._changed:
            sequences = self._scheduler.admit()
            admitted = [self._active[sequence.id] for sequence in sequences]
            self._cached_prompt_tokens += sum(sequence.cached for sequence in sequences)
        for generation in admitted:
            self._admit(generation)
        with self._changed:
            step = self._scheduler.schedule()
            if step is not None:
                rows = [self._active[sequence.id] for sequence in self._scheduler.sequences(step)]
                choice = self._scheduler.choice(step)
        clock.lap("schedule")
        if step is None:
            return
        index = self._steps
        chunk = choice.chunk
        prompt = None if chunk is None else self._active[chunk.request_id]
        drawn = self._advance(step, rows, prompt, clock)
        finished = sum(generation.reason is not None for generation in rows)
        accepted = drawn - 1 if step.draft else 0
        ends = (len(admitted), len(cancelled), finished, accepted)
        with self._changed:
            self._scheduler.record(step, clock.seconds)
            self._drafted_tokens += len(step.draft)
            self._accepted_tokens += accepted
            self._records.append(StepRecord(index, clock.began, clock.parts(), choice, *ends))

    def _admit(self, generation: Generation) -> None:
        try:
            admission = generation.admit(self._codec)
        except Exception:
            _LOG.exception("request %s failed at its admission", generation.id)
            with self._changed:
                self._scheduler.cancel(generation.id)
            self._end(generation, FinishReason.ERROR, _REQUEST_FAILED)
        else:
            if generation.index == 0:
                self._deliver(generation, admission)

    def _advance(
        self, step: Step, rows: list[Generation], prompt: Generation | None, clock: StepClock
    ) -> int:
        """Run the step; `rows[r]` is the output of row r of its logits, `prompt` the chunk's.

        Returns the number of tokens drawn.
        """
        logits, scores = run_step(self._backend, step)
        clock.lap("backend")
        scored = None
        if scores is not None and prompt is not None and step.prefill is not None:
            scored = self._score(prompt, scores, step.prefill.start)
        if step.draft:
            drawn = follow_draft(self._sampler, logits, rows[0], step.draft)
            clock.lap("sample")  # texts included: each token waits for the one before
        else:
            draws = draw_rows(self._sampler, logits, rows)
            clock.lap("sample")
            drawn = [accept(*each) for each in zip(rows, draws, strict=True)]
        clock.lap("detokenise")
        tokens = [each.token for each in drawn]
        finished = [generation for generation in rows if generation.reason is not None]
        with self._changed:
            self._scheduler.update(step, tokens, {generation.id for generation in finished})
            for generation in finished:
                self._forget(generation)
            self._steps += 1
            self._output_tokens += sum(each.delta is not None for each in drawn)
            if step.prefill is not None:
                self._prompt_tokens += len(step.prefill.tokens)
        clock.lap("update")
        if scored is not None and prompt is not None:
            self._deliver(prompt, scored)
        # After the update, so that a listener that hears of an end finds the slot free.
        for each in drawn:
            if each.delta is not None:
                self._deliver(each.generation, each.delta)
            is_last = each is drawn[-1] or not step.draft
            if is_last and each.generation.reason is not None:
                self._deliver_end(each.generation)
        if prompt is not None and prompt.reason is not None and prompt not in rows:
            with self._changed:
                self._scheduler.cancel(prompt.id)
            self._end(prompt, prompt.reason)
        clock.lap("deliver")
        return len(drawn)

    def _score(self, generation: Generation, logits: Logits, start: int) -> PromptLogprobs | None:
        """Return what a chunk tells of its prompt; None when it cannot, which ends its request."""
        assert generation.scores is not None
        try:
            return generation.scores.take(logits, start)
        except ValueError:
            _LOG.exception("request %s: its prompt cannot be scored", generation.id)
            generation.reason = FinishReason.ERROR
            return None

    def _end_all(self, reason: FinishReason, error: str | None = None) -> None:
        with self._changed:
            self._scheduler.clear()
            self._to_cancel.clear()
            left = list(self._active.values())
        for generation in left:
            self._end(generation, reason, error)

    def _end(self, generation: Generation, reason: FinishReason, error: str | None = None) -> None:
        generation.reason = reason
        with self._changed:
            self._forget(generation)
        self._deliver_end(generation, error)

    def _forget(self, generation: Generation) -> None:
        """Drop an output that ended, in the order in which the Ends are delivered."""
        del self._active[generation.id]
        generation.outputs.remove(generation)
        generation.outputs_left = len(generation.outputs)
        if not generation.outputs:
            del self._requests[generation.request_id]

    def _deliver_end(self, generation: Generation, error: str | None = None) -> None:
        if generation.reason is FinishReason.ERROR and error is None:
            error = _REQUEST_FAILED
        if generation.reason is FinishReason.ERROR and generation.outputs:
            self.cancel(generation.request_id)
        generation.is_muted = False
        self._deliver(generation, generation.end(error))
        with self._changed:
            self._undelivered -= 1
            self._changed.notify_all()

    def _deliver(self, generation: Generation, event: Event) -> None:
        if generation.is_muted:
            return
        try:
            generation.listener(event)
        except Exception:
            _LOG.exception("the listener of request %s raised: request cancelled", generation.id)
            for each in (generation, *generation.outputs):
                each.is_muted = True
            if generation.outputs:
                self.cancel(generation.request_id)
