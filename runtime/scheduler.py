"""What runs in the next step: in-flight batching over slots, pure and deterministic."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Tokens
from collections.abc import Set

from edgellama.runtime.prefix_cache import SHORTEST, Held, PrefixCache
from edgellama.runtime.request import QueueFullError
from edgellama.runtime.sequence import Sequence, Status
from edgellama.runtime.slots import SlotPool
from edgellama.runtime.step import DecodeRow, PrefillChunk, SlotCopy, Step


class Scheduler:
    """Admits in order of arrival, decodes every running sequence in every step.

    Beside the decode rows a step carries at most one chunk, of at most `prefill_chunk` tokens, of
    the prompt admitted first; so a long prompt delays the running rows by one chunk a step, and
    running rows never hold a prompt back. Nothing is evicted: `prompt + max_new_tokens` of every
    sequence is at most `capacity`, so an admitted sequence always runs to its end. (The last token
    is never fed back, so a slot in use always has its last position to spare.) An admitted prompt
    begins behind the longest prefix of it that some slot holds.

    One step at a time: `admit`, `schedule`, then `update` with the tokens; not thread-safe.
    """

    def __init__(self, slots: int, capacity: int, prefill_chunk: int, max_queue: int) -> None:
        self.capacity = capacity
        self.prefill_chunk = prefill_chunk
        self.max_queue = max_queue
        self._pool = SlotPool(slots)
        self._prefixes = PrefixCache(slots)
        self._copies: list[SlotCopy] = []  # for the next step
        self._by_slot: list[Sequence | None] = [None] * slots
        self._by_id: dict[str, Sequence] = {}
        self._waiting: deque[Sequence] = deque()
        self._prefilling: deque[Sequence] = deque()  # by admission; chunks go to the first
        self._step: Step | None = None  # scheduled, not yet updated

    @property
    def num_waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return self._pool.slots - self._pool.num_free

    @property
    def num_free_slots(self) -> int:
        """Slots that no sequence holds."""
        return self._pool.num_free

    @property
    def has_work(self) -> bool:
        """Whether `admit` and `schedule` would give a step."""
        return bool(self._by_id)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; raises QueueFullError when `max_queue` would wait beyond free slots."""
        assert sequence.id not in self._by_id, sequence.id
        assert len(sequence.prompt) + sequence.max_new_tokens <= self.capacity, sequence
        waiting = len(self._waiting) - self._pool.num_free
        if waiting >= self.max_queue:
            raise QueueFullError(
                f"{len(self._waiting)} requests wait for one of {self._pool.slots} slots; "
                f"limits.max_queue is {self.max_queue}; try again later"
            )
        self._by_id[sequence.id] = sequence
        self._waiting.append(sequence)

    def cancel(self, sequence_id: str) -> Sequence | None:
        """Drop a sequence between two steps and free its slot; None when there is none."""
        assert self._step is None, "cancel between schedule and update"
        sequence = self._by_id.get(sequence_id)
        if sequence is not None:
            self._release(sequence)
        return sequence

    def clear(self) -> list[Sequence]:
        """Drop every sequence, and a step under way; returns them in order of arrival."""
        self._step = None
        dropped = list(self._by_id.values())
        for sequence in dropped:
            self._release(sequence)
        self._copies.clear()
        self._prefixes.forget()
        return dropped

    def admit(self) -> list[Sequence]:
        """Give free slots to waiting sequences, first come first served; returns those."""
        admitted = []
        while self._waiting and self._pool.num_free:
            sequence = self._waiting.popleft()
            sequence.slot = self._pool.allocate()
            sequence.status = Status.PREFILLING
            running = {
                slot: Held(each.held, each.salt)
                for slot, each in enumerate(self._by_slot)
                if each is not None and _may_share(each, sequence)
            }
            sequence.cached, copies = self._prefixes.enter(
                sequence.slot, sequence.prompt, sequence.salt, running
            )
            self._copies += copies
            self._by_slot[sequence.slot] = sequence
            self._advance(sequence, sequence.cached)
            self._prefilling.append(sequence)
            admitted.append(sequence)
        return admitted

    def schedule(self) -> Step | None:
        """Return the next step over the admitted sequences; None when there are none."""
        assert self._step is None, "schedule before update"
        decode = tuple(
            DecodeRow(slot, sequence.output[-1], sequence.computed)
            for slot, sequence in enumerate(self._by_slot)
            if sequence is not None and sequence.status is Status.DECODING
        )
        prefill = self._next_chunk()
        if decode or prefill is not None:
            if decode:  # an idle row below another takes part, and the more it holds the longer
                self._copies += self._prefixes.clear_below(decode[-1].slot)
            lengths = self._prefixes.lengths(self._pool.lengths)
            self._step = Step(decode, prefill, lengths, tuple(self._copies))
            self._copies.clear()
        return self._step

    def sequences(self, step: Step) -> list[Sequence]:
        """Return the sequence of each row of logits that the step returns, in their order."""
        slots = [row.slot for row in step.decode]
        if step.prefill is not None and step.prefill.is_last:
            slots.append(step.prefill.slot)
        return [self._in(slot) for slot in slots]

    def update(self, step: Step, tokens: Tokens[int], finished: Set[str]) -> None:
        """Take the drawn tokens back, one for each row of logits, and free the finished slots."""
        assert step is self._step, "update with another step"
        assert len(tokens) == step.num_logits, (len(tokens), step.num_logits)
        self._step = None
        drawn = self.sequences(step)
        for row in step.decode:
            self._advance(self._in(row.slot), 1)
        if step.prefill is not None:
            sequence = self._in(step.prefill.slot)
            self._advance(sequence, len(step.prefill.tokens))
            if step.prefill.is_last:
                self._prefilling.popleft()
                sequence.status = Status.DECODING
        for sequence, token in zip(drawn, tokens, strict=True):
            sequence.output.append(token)
            if sequence.id in finished:
                self._release(sequence)
            else:
                assert not sequence.is_at_limit, f"{sequence.id} must finish"

    def check(self) -> None:
        """Check that slots, queues and sequences agree."""
        self._pool.check()
        held = [sequence for sequence in self._by_slot if sequence is not None]
        assert len(held) == self.num_running
        for slot, sequence in enumerate(self._by_slot):
            length = self._pool.lengths[slot]
            assert length < self.capacity
            assert sequence is None or (sequence.slot, sequence.computed) == (slot, length)
            assert sequence is not None or self._prefixes.length(slot) < self.capacity
        assert {s.id for s in held} | {s.id for s in self._waiting} == set(self._by_id)
        assert len(held) + len(self._waiting) == len(self._by_id)
        assert {s.id for s in self._prefilling} == {s.id for s in held if s.is_prefilling}

    def _next_chunk(self) -> PrefillChunk | None:
        if not self._prefilling:
            return None
        sequence = self._prefilling[0]
        assert sequence.slot is not None
        start = sequence.computed
        tokens = sequence.prompt[start : start + self.prefill_chunk]
        is_last = start + len(tokens) == len(sequence.prompt)
        return PrefillChunk(sequence.slot, tokens, start, is_last)

    def _in(self, slot: int) -> Sequence:
        sequence = self._by_slot[slot]
        assert sequence is not None, f"slot {slot} is free"
        return sequence

    def _advance(self, sequence: Sequence, tokens: int) -> None:
        """Record that the cache grew: `[0, computed)` becomes `[0, computed + tokens)`."""
        assert sequence.slot is not None
        self._pool.extend(sequence.slot, tokens)
        sequence.computed += tokens

    def _release(self, sequence: Sequence) -> None:
        del self._by_id[sequence.id]
        if sequence.status is Status.WAITING:
            self._waiting.remove(sequence)
        elif sequence.status is Status.PREFILLING:
            self._prefilling.remove(sequence)
        if sequence.slot is not None:
            self._by_slot[sequence.slot] = None
            self._prefixes.leave(sequence.slot, sequence.held, sequence.salt)
            self._pool.free(sequence.slot)
            sequence.slot = None
        sequence.status = Status.FINISHED


def _may_share(running: Sequence, entering: Sequence) -> bool:
    """Whether it is worth collecting what a running sequence holds: its prompt begins the same."""
    begin = running.prompt[:SHORTEST]
    return running.computed >= SHORTEST and begin == entering.prompt[: len(begin)]
