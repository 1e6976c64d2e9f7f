"""What runs in the next step: in-flight batching over slots, pure and deterministic."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from collections.abc import Set

from edgellama.runtime.compaction import has_gap
from edgellama.runtime.fair_share import FairShare
from edgellama.runtime.pace import Pace
from edgellama.runtime.preemption import choose_victim
from edgellama.runtime.prefill_order import PrefillOrder
from edgellama.runtime.prefix_store import PrefixStore
from edgellama.runtime.request import QueueFullError
from edgellama.runtime.sequence import Sequence, Status
from edgellama.runtime.slot_table import SlotTable
from edgellama.runtime.speculation import Speculation
from edgellama.runtime.step import (
    DecodeRow,
    PrefillChunk,
    PrefixRestore,
    PrefixSave,
    SlotCopy,
    Step,
)
from edgellama.runtime.step_record import Choice, ChunkRecord, Stall
from edgellama.runtime.waiting_queue import WaitingQueue


class Scheduler:
    """Gives slots by priority and fair share, decodes every running sequence in every step.

    Beside the decode rows a step carries at most one chunk of one prompt, of at most
    `prefill_chunk` tokens and what the rows leave of `step_tokens`; so a long prompt delays the
    running rows by one chunk a step, and running rows never hold a prompt back. With a `pace` the
    chunk is also what keeps the step within its slowdown by the seconds of `record`, and single
    steps go without, to time the rows. With `speculation` a sequence that is alone in a step may
    feed guessed tokens too.

    Nothing is evicted: `prompt + max_new_tokens` of every sequence is at most `capacity`, so an
    admitted sequence always runs to its end. (The last token is never fed back, so a slot in use
    always has its last position to spare.) Only with `preempt` a waiting sequence takes the slot of
    a running one of lower priority, MAX_PREEMPTIONS times at most of each: it waits again at the
    place of its arrival, and what its slot held is computed again where no other slot keeps it.
    An admitted prompt begins behind the longest prefix of it that some slot or `store` holds. The
    siblings of a sequence, which have its prompt, wait until that is computed, so that they take it
    from there. While nobody waits for a slot, sequences move to lower ones so that rows lie close
    together.

    One step at a time: `admit`, `schedule`, then `update` with the tokens; not thread-safe.
    """

    def __init__(
        self,
        slots: int,
        capacity: int,
        prefill_chunk: int,
        max_queue: int,
        *,
        step_tokens: int | None = None,
        preempt: bool = False,
        pace: Pace | None = None,
        speculation: Speculation | None = None,
        store: PrefixStore | None = None,
    ) -> None:
        if step_tokens is not None and step_tokens <= slots:
            raise ValueError(f"step_tokens is {step_tokens}; it must be > slots ({slots})")
        self.capacity = capacity
        self.prefill_chunk = prefill_chunk
        self.max_queue = max_queue
        self.step_tokens = step_tokens
        self.preempt = preempt
        self.pace = pace
        self.speculation = speculation
        self.preemptions = 0  # since it was made
        self._slots = SlotTable(slots, store or PrefixStore())
        self._by_id: dict[str, Sequence] = {}
        self._shares = FairShare()
        self._waiting = WaitingQueue(self._shares)
        self._siblings: dict[str, list[Sequence]] = {}  # not in the queue yet, by their leader
        self._prefilling = PrefillOrder()
        self._step: Step | None = None  # scheduled, not yet updated
        self._drawn: list[Sequence] = []  # its rows of logits are theirs

    @property
    def num_waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting) + sum(map(len, self._siblings.values()))

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return self._slots.slots - self._slots.num_free

    @property
    def num_free_slots(self) -> int:
        """Slots that no sequence holds."""
        return self._slots.num_free

    @property
    def store(self) -> PrefixStore:
        """The prefixes that no slot has room for."""
        return self._slots.store

    @property
    def has_work(self) -> bool:
        """Whether `admit` and `schedule` would give a step."""
        return bool(self._by_id)

    def add(self, sequence: Sequence, siblings: Tokens[Sequence] = ()) -> None:
        """Queue a sequence, and behind its prompt those whose leader it is.

        Raises QueueFullError when more than `max_queue` would wait beyond the free slots.
        """
        waiting = self.num_waiting
        if waiting + 1 + len(siblings) - self._slots.num_free > self.max_queue:
            raise QueueFullError(
                f"{waiting} requests wait for one of {self._slots.slots} slots; "
                f"limits.max_queue is {self.max_queue}; try again later"
            )
        for each in (sequence, *siblings):
            assert each.id not in self._by_id, each.id
            assert len(each.prompt) + each.max_new_tokens <= self.capacity, each
            self._by_id[each.id] = each
            self._shares.enter(each.tenant)
        self._waiting.add(sequence)
        for each in siblings:
            assert each.leader is sequence, each
            self._waiting.number(each)
        if siblings:
            self._siblings[sequence.id] = list(siblings)

    def cancel(self, sequence_id: str) -> Sequence | None:
        """Drop a sequence between two steps and free its slot; None when there is none."""
        assert self._step is None, "cancel between schedule and update"
        sequence = self._by_id.get(sequence_id)
        if sequence is not None:
            self._release(sequence)
        return sequence

    def clear(self) -> list[Sequence]:
        """Drop every sequence, and a step under way; returns them in order of arrival."""
        begun = self._step.copies if self._step is not None else ()
        self._step = None
        dropped = list(self._by_id.values())
        for sequence in dropped:
            self._release(sequence)
        self._slots.forget(begun)
        return dropped

    def admit(self) -> list[Sequence]:
        """Give free slots to waiting sequences; returns those that had none before."""
        admitted: list[Sequence] = []
        while self._waiting and (self._slots.num_free or self._preempt(admitted)):
            sequence = self._waiting.pop()
            self._enter(sequence)
            admitted.append(sequence)
        return [sequence for sequence in admitted if not sequence.preempted]

    def schedule(self) -> Step | None:
        """Return the next step over the admitted sequences; None when there are none."""
        assert self._step is None, "schedule before update"
        drawn = self._decoding()
        # Where nobody is about to fill it.
        if has_gap(drawn) and not self._waiting and not len(self._prefilling):
            self._slots.close_gap(drawn)
            drawn = self._decoding()
        decode = [_row(sequence) for sequence in drawn]
        prefill = self._next_chunk(len(decode))
        if self.speculation is not None and prefill is None and _may_guess(drawn):
            decode[0] = decode[0]._replace(draft=self.speculation.draft(drawn[0]))
        if prefill is not None and prefill.is_last:
            drawn.append(self._slots.at(prefill.slot))
        if decode or prefill is not None:
            lengths, copies = self._slots.begin_step(decode[-1].slot if decode else None)
            self._step = Step(tuple(decode), prefill, lengths, copies)
            self._drawn = drawn
        return self._step

    def sequences(self, step: Step) -> list[Sequence]:
        """Return the sequence of each row of logits that the step returns, in their order."""
        assert step is self._step, "sequences of another step"
        return self._drawn

    def choice(self, step: Step) -> Choice:
        """Return what was chosen for the step scheduled last, and why it is not more."""
        chunk, record = step.prefill, None
        stalls = []
        if self._waiting and not self._slots.num_free:
            stalls.append(Stall.NO_SLOT)
        if len(self._prefilling) > 1:
            stalls.append(Stall.OTHER_CHUNK)
        if chunk is not None:
            owner, size = self._slots.at(chunk.slot), len(chunk.tokens)
            record = ChunkRecord(owner.id, chunk.slot, chunk.start, size)
            whole = min(self.prefill_chunk, owner.to_compute - chunk.start)
            budget = self._step_budget(len(step.decode))
            if size < min(whole, budget):
                stalls.append(Stall.CHUNK_SLOWDOWN)
            elif size < whole:
                stalls.append(Stall.STEP_TOKENS)
        elif len(self._prefilling):
            stalls.append(Stall.CHUNK_SLOWDOWN)
        pairs = zip(step.decode, self.sequences(step), strict=False)
        rows = tuple([(row.slot, sequence.id) for row, sequence in pairs])
        kinds = [type(copy) for copy in step.copies]
        return Choice(
            rows,
            record,
            kinds.count(SlotCopy),
            self.num_running,
            self.num_waiting,
            tuple(stalls),
            drafted=len(step.draft),
            saves=kinds.count(PrefixSave),
            restores=kinds.count(PrefixRestore),
        )

    def update(self, step: Step, tokens: Tokens[int], finished: Set[str]) -> None:
        """Take the drawn tokens back, one for each row of logits, and free the finished slots.

        Of a row with a draft: as many as its guesses were right, and one.
        """
        assert step is self._step, "update with another step"
        drawn = self.sequences(step)
        if step.draft:
            tokens = self._take_draft(drawn[0], step.draft, tokens)
        assert len(tokens) == step.num_logits - len(step.draft), (len(tokens), step)
        self._step = None
        for sequence in drawn[: len(step.decode)]:
            self._slots.advance(sequence, 1)
            self._shares.charge(sequence.tenant, 1)
        if step.prefill is not None:
            sequence = self._slots.at(step.prefill.slot)
            self._slots.advance(sequence, len(step.prefill.tokens))
            self._shares.charge(sequence.tenant, len(step.prefill.tokens))
            if sequence.computed == sequence.to_compute:
                self._prefilling.remove(sequence)
                sequence.status = Status.DECODING
                self._queue_siblings(sequence)
        for sequence, token in zip(drawn, tokens, strict=True):
            sequence.output.append(token)
            if sequence.id in finished:
                self._release(sequence)
            else:
                assert not sequence.is_at_limit, f"{sequence.id} must finish"

    def record(self, step: Step, seconds: float) -> None:
        """Learn what a step took, after its update."""
        chunk = 0 if step.prefill is None else len(step.prefill.tokens)
        if self.pace is not None and not step.draft:
            self.pace.record(len(step.decode), chunk, seconds)
        if self.speculation is not None and len(step.decode) == 1 and not chunk:
            self.speculation.record(len(step.draft), seconds)

    def check(self) -> None:
        """Check that slots, queues and sequences agree."""
        self._slots.check(self.capacity)
        self._shares.check()
        held = list(self._slots)
        siblings = [sibling for each in self._siblings.values() for sibling in each]
        present = [s.id for s in (*held, *self._waiting, *siblings)]
        assert sorted(present) == sorted(self._by_id)
        assert set(self._siblings) <= set(self._by_id), "siblings wait for nobody"
        assert {s.id for s in self._prefilling} == {s.id for s in held if s.is_prefilling}

    def _enter(self, sequence: Sequence) -> None:
        """Give a free slot to a sequence, with what the slots hold of it."""
        tokens = (*sequence.prompt, *sequence.output)  # never cached: the newest
        sequence.to_compute = max(len(sequence.prompt), len(tokens) - 1)
        if sequence.is_scored and not sequence.output:
            tokens = ()  # nothing is like it
        cached = self._slots.enter(sequence, tokens)
        if not sequence.preempted:
            sequence.cached = cached
        if sequence.computed == sequence.to_compute:  # nothing of what it lost is missing
            sequence.status = Status.DECODING
        else:
            sequence.status = Status.PREFILLING
            self._prefilling.add(sequence)

    def _preempt(self, admitted: list[Sequence]) -> bool:
        """Free a slot for the first in the queue, where it may take one; says whether it did."""
        if not self.preempt:
            return False
        running = (each for each in self._slots if each not in admitted)
        victim = choose_victim(self._waiting.first(), running)
        if victim is None:
            return False
        self._leave_slot(victim)
        victim.status, victim.computed = Status.WAITING, 0
        victim.preempted += 1
        self.preemptions += 1
        self._waiting.put_back(victim)
        return True

    def _decoding(self) -> list[Sequence]:
        """Return the sequences that decode, by slot."""
        return [each for each in self._slots if each.status is Status.DECODING]

    def _step_budget(self, rows: int) -> int:
        """Return how many tokens of a chunk the limits allow beside so many rows."""
        if self.step_tokens is None:
            return self.prefill_chunk
        return min(self.prefill_chunk, self.step_tokens - rows)

    def _next_chunk(self, rows: int) -> PrefillChunk | None:
        if not len(self._prefilling):
            return None
        size = self._step_budget(rows)
        most = None if self.pace is None else self.pace.chunk_tokens(rows)
        if most is not None:
            size = min(size, most)
        sequence = self._prefilling.take() if size else None
        if sequence is None:
            return None
        assert sequence.slot is not None
        start, end = sequence.computed, sequence.to_compute
        tokens = sequence.prompt[start : start + size]
        if sequence.output:
            tokens = (*sequence.prompt, *sequence.output)[start : min(start + size, end)]
        is_last = start + len(tokens) == end and not sequence.output
        is_scored = sequence.is_scored and not sequence.output
        return PrefillChunk(sequence.slot, tokens, start, is_last, is_scored, sequence.is_pinned)

    def _take_draft(
        self, sequence: Sequence, draft: tuple[int, ...], tokens: Tokens[int]
    ) -> Tokens[int]:
        """Take the guesses that were right; returns what was drawn behind them."""
        accepted = len(tokens) - 1
        assert 0 <= accepted <= len(draft), (tokens, draft)
        assert tuple(tokens[:accepted]) == draft[:accepted], "only what was guessed is computed"
        assert self.speculation is not None
        self.speculation.take(sequence, len(draft), accepted)
        self._slots.advance(sequence, accepted)
        self._shares.charge(sequence.tenant, accepted)
        sequence.output += tokens[:accepted]
        return tokens[accepted:]

    def _release(self, sequence: Sequence) -> None:
        del self._by_id[sequence.id]
        if self.speculation is not None:
            self.speculation.forget(sequence)
        self._queue_siblings(sequence)
        if sequence.slot is not None:
            self._leave_slot(sequence)
        elif sequence in (siblings := self._siblings_of(sequence.leader)):
            siblings.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._shares.leave(sequence.tenant)
        sequence.status = Status.FINISHED

    def _siblings_of(self, leader: Sequence | None) -> list[Sequence]:
        return [] if leader is None else self._siblings.get(leader.id, [])

    def _queue_siblings(self, leader: Sequence) -> None:
        """Let those wait for a slot that waited for a prompt, now computed or never to be."""
        for sibling in self._siblings.pop(leader.id, ()):
            self._waiting.put_back(sibling)

    def _leave_slot(self, sequence: Sequence) -> None:
        if sequence.is_prefilling:
            self._prefilling.remove(sequence)
        self._slots.leave(sequence)


def _row(sequence: Sequence) -> DecodeRow:
    assert sequence.slot is not None
    return DecodeRow(sequence.slot, sequence.output[-1], sequence.computed, sequence.is_pinned)


def _may_guess(rows: list[Sequence]) -> bool:
    """Whether there is one row, and any rounding will do for it: that of a chunk is another."""
    return len(rows) == 1 and not rows[0].is_pinned
