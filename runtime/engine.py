"""The engine: the calls of a program into the thread that steps the model."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edgellama.profiles.profile import GREEDY_FORMS, Limits
from edgellama.runtime.backend import ScoringBackend
from edgellama.runtime.completion import Collector, Completion
from edgellama.runtime.generation import Listener, end_ids
from edgellama.runtime.load import greedy_form_of, load_backend
from edgellama.runtime.manifest import EngineError, Manifest, read_manifest
from edgellama.runtime.manifest import check_files as compare_files
from edgellama.runtime.outputs import make_outputs
from edgellama.runtime.pace import Pace
from edgellama.runtime.prefix_budget import make_prefix_store
from edgellama.runtime.request import Request
from edgellama.runtime.rule import compile_rule
from edgellama.runtime.sampling import Sampler
from edgellama.runtime.scheduler import Scheduler
from edgellama.runtime.speculation import Speculation
from edgellama.runtime.step_loop import EngineStats, StepLoop
from edgellama.runtime.step_record import StepRecord
from edgellama.runtime.validate import check_request

if TYPE_CHECKING:
    from edgellama.runtime.text import TextCodec


class Engine:
    """Serves requests from any thread over one backend; in-flight batching, a step at a time.

    Every request's listener is called on the engine's thread: Admission when it gets a slot,
    PromptLogprobs for each chunk of its prompt where asked for, one Delta for each token of an
    output, and one End for each output. A listener must be quick: the next step waits for it. One
    that raises costs its own request only.
    """

    def __init__(
        self,
        backend: ScoringBackend,
        codec: TextCodec,
        limits: Limits,
        manifest: Manifest | None = None,
        *,
        preempt: bool = False,
        greedy_form: str = "fastest",
    ) -> None:
        """Serve over a loaded backend, which is the engine's from now on; raises EngineError."""
        if limits.slots > backend.slots:
            raise EngineError(
                f"limits.slots is {limits.slots}; the engine was built for {backend.slots}; "
                "lower it or rebuild the engine"
            )
        if greedy_form not in GREEDY_FORMS:
            raise EngineError(
                f"greedy_form is {greedy_form!r}; it must be {' or '.join(map(repr, GREEDY_FORMS))}"
            )
        self._backend = backend
        self._codec = codec
        self._manifest = manifest
        self._sampler = Sampler(backend.vocab_size)
        self._slots = limits.slots
        self._greedy_form = greedy_form
        self._capacity = min(limits.capacity, backend.capacity)
        scheduler = Scheduler(
            limits.slots,
            self._capacity,
            limits.prefill_chunk,
            limits.max_queue,
            step_tokens=limits.step_tokens,
            preempt=preempt,
            pace=_pace(limits),
            speculation=_speculation(limits),
            store=make_prefix_store(limits.prefix_store_mib, backend),
        )
        self._loop = StepLoop(backend, codec, self._sampler, scheduler)
        self._is_closed = False
        self._closing = threading.Lock()

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        threads: int | None = None,
        check_files: bool = True,
        preempt: bool = False,
        greedy_form: str | None = None,
        limits: Limits | None = None,
    ) -> Engine:
        """Open an engine directory; `check_files` compares every file with its sha256 first.

        `threads`, `greedy_form` and `limits` None take the profile's. With `preempt` a waiting
        request takes the slot of a running one of lower priority. Raises EngineError.
        """
        # Imported here so that the engine itself does not need tokenizers.
        from edgellama.runtime.text import TextCodec

        manifest = read_manifest(directory)
        if check_files:
            compare_files(directory, manifest)
        form = greedy_form_of(directory, manifest, greedy_form)
        codec = TextCodec.load(directory)
        backend = load_backend(directory, manifest, threads=threads)
        try:
            return cls(
                backend,
                codec,
                manifest.profile.limits if limits is None else limits,
                manifest,
                preempt=preempt,
                greedy_form=form,
            )
        except EngineError:
            backend.close()
            raise

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def codec(self) -> TextCodec:
        """The tokenizer and the model's defaults."""
        return self._codec

    @property
    def manifest(self) -> Manifest:
        """`engine.json`; ValueError for an engine that was not loaded from a directory."""
        if self._manifest is None:
            raise ValueError("this engine was made without a manifest")
        return self._manifest

    @property
    def has_failed(self) -> bool:
        """Whether a step failed: every further request is refused, load the engine again."""
        return self._loop.has_failed

    @property
    def capacity(self) -> int:
        """Tokens of prompt and output together that one request may have."""
        return self._capacity

    def submit(self, request: Request, listener: Listener) -> str:
        """Queue a request and return its id.

        Raises InvalidRequestError, QueueFullError, DrainingError or EngineFailedError; then the
        listener is never called.
        """
        max_new_tokens = check_request(
            request,
            vocab_size=self._backend.vocab_size,
            capacity=self._capacity,
            slots=self._slots,
        )
        eos = end_ids(request, self._codec)
        banned = (*eos, *request.stop.token_ids) if request.stop.min_new_tokens else ()
        sampling = request.sampling
        bad_words = sampling.bad_token_ids
        if sampling.bad_words:
            bad_words += self._codec.bad_words(sampling.bad_words)
        self._sampler.check(sampling, banned, bad_words)
        guides = compile_rule(request, self._codec)
        request_id = request.request_id or uuid.uuid4().hex
        self._loop.add(
            make_outputs(
                request,
                request_id,
                max_new_tokens,
                listener,
                guides,
                bad_words,
                greedy_form=self._greedy_form,
            )
        )
        return request_id

    def cancel(self, request_id: str) -> bool:
        """Stop a request before the next step, all outputs; False when it is not active."""
        return self._loop.cancel(request_id)

    def generate(self, request: Request) -> Completion:
        """Serve one request and wait for it; raises what `submit` does, and EngineFailedError."""
        self._refuse_own_thread("generate")
        collector = Collector()
        request_id = self.submit(request, collector)
        try:
            return collector.result()
        finally:
            if not collector.is_ended:  # the wait was interrupted
                self.cancel(request_id)

    def stats(self) -> EngineStats:
        """Return the counts of this moment."""
        return self._loop.stats()

    def steps(self) -> tuple[StepRecord, ...]:
        """Return what is remembered of the last KEPT_STEPS steps, the oldest first."""
        return self._loop.steps()

    def drain(self, timeout: float | None = None) -> bool:
        """Take no new request and wait for the others; False when `timeout` seconds were short."""
        self._refuse_own_thread("drain")
        return self._loop.drain(timeout)

    def close(self) -> None:
        """Cancel what still runs, stop the thread and free the backend; again does nothing."""
        self._refuse_own_thread("close")
        self._loop.stop()
        with self._closing:
            if not self._is_closed:
                self._backend.close()
            self._is_closed = True

    def _refuse_own_thread(self, call: str) -> None:
        if self._loop.is_current:
            raise RuntimeError(f"{call} called by a listener would wait for itself")


def _pace(limits: Limits) -> Pace | None:
    if limits.chunk_slowdown is None:
        return None
    return Pace(limits.chunk_slowdown, limits.prefill_chunk)


def _speculation(limits: Limits) -> Speculation | None:
    return None if limits.draft_tokens is None else Speculation(limits.draft_tokens)
