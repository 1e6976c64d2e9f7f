"""What one step of the engine did and why, for whoever asks afterwards; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# Steps that an engine remembers: minutes of a large model, some MB at most.
KEPT_STEPS = 4096


class Stall(str, Enum):
    """Why a step did less than what was asked of the engine."""

    NO_SLOT = "no_slot"  # requests wait, and every slot is in use
    OTHER_CHUNK = "other_chunk"  # admitted prompts wait while the chunk is of another
    STEP_TOKENS = "step_tokens"  # limits.step_tokens cut the chunk
    CHUNK_SLOWDOWN = "chunk_slowdown"  # limits.chunk_slowdown cut the chunk, or none ran


@dataclass(frozen=True)
class StepParts:
    """Seconds of the parts of a step, in their order; together they are the step.

    `schedule`: cancellations, admissions and the choice of the step. `backend`: the model with its
    inputs. `sample`: from logits to tokens. `detokenise`: from tokens to text and stop rules.
    `update`: tokens and freed slots back to the scheduler. `deliver`: the listeners.
    """

    schedule: float
    backend: float
    sample: float
    detokenise: float
    update: float
    deliver: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return (
            self.schedule
            + self.backend
            + self.sample
            + self.detokenise
            + self.update
            + self.deliver
        )


@dataclass(frozen=True)
class ChunkRecord:
    """A chunk: the positions `[start, start + tokens)` of a request's prompt, into its slot."""

    request_id: str
    slot: int
    start: int
    tokens: int


@dataclass(frozen=True)
class Choice:
    """What the scheduler chose for a step, and out of what.

    `rows` has the slot and the request of every decode row; `copies` counts those between slots,
    `saves` and `restores` those of prefixes to the host's memory and back. `running` and `waiting`
    count requests, those admitted for the step among the running, `drafted` the guessed tokens that
    the one row was fed beside its own.
    """

    rows: tuple[tuple[int, str], ...]
    chunk: ChunkRecord | None
    copies: int
    running: int
    waiting: int
    stalls: tuple[Stall, ...]
    drafted: int = 0
    saves: int = 0
    restores: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that the model computes."""
        chunk = 0 if self.chunk is None else self.chunk.tokens
        return len(self.rows) + self.drafted + chunk


@dataclass(frozen=True)
class StepRecord:
    """One step; `began` is seconds of the process's `time.perf_counter`.

    `admitted`, `cancelled` and `finished` count the requests that came and went with it, `accepted`
    the guessed tokens that were right.
    """

    index: int
    began: float
    parts: StepParts
    choice: Choice
    admitted: int
    cancelled: int
    finished: int
    accepted: int = 0
