"""What is pinned is computed with the first of two forms of the weights, whatever runs beside it.

The forms are graphs of weights that differ; of each, numpy knows the logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_llama import CAPACITY, SLOTS, VOCAB, WEIGHTS, Array, expected_logits, tokens

from edgellama.profiles.profile import Precision
from edgellama.runtime.run_step import run_step
from edgellama.runtime.step import DecodeRow, PrefillChunk, Step
from edgellama.runtime.step_parts import split_pinned

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from ort_graph import MANIFEST, PROFILE, make_graph

from edgellama.runtime.ort import NEVER, OrtBackend

_NOISE = np.random.default_rng(3)
SECOND = {
    name: w
    if name in ("cos", "sin")
    else (w + 0.05 * _NOISE.standard_normal(w.shape)).astype(np.float32)
    for name, w in WEIGHTS.items()
}
TWO_FORMS = replace(
    MANIFEST,
    profile=replace(
        PROFILE, precision=Precision("fp32", "fp32", "fp32", batch_weights="int8_rows")
    ),
    batch_graph="model.batch.onnx",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("two")
    make_graph(made / "model.onnx")
    make_graph(made / "model.batch.onnx", mixed=True, weights=SECOND)
    return made


class Slots:
    """Feeds an engine of two forms, keeps what each slot holds, and who is pinned."""

    def __init__(self, folder: Path, pinned: Mapping[int, bool], batch_from: int = 1) -> None:
        self.backend = OrtBackend.load(folder, TWO_FORMS, batch_from=batch_from)
        self.pinned = pinned
        self.held: list[list[int]] = [[] for _ in range(SLOTS)]

    def step(
        self, rows: Mapping[int, int], chunk: tuple[int, list[int]] | None, is_last: bool
    ) -> Step:
        lengths = tuple(map(len, self.held))
        decode = tuple(DecodeRow(s, t, lengths[s], self.pinned[s]) for s, t in rows.items())
        if chunk is None:
            return Step(decode, None, lengths)
        slot, ids = chunk
        pinned = self.pinned[slot]
        prefill = PrefillChunk(slot, tuple(ids), lengths[slot], is_last, is_pinned=pinned)
        return Step(decode, prefill, lengths)

    def run(
        self,
        rows: Mapping[int, int] | None = None,
        chunk: tuple[int, list[int]] | None = None,
        is_last: bool = True,
    ) -> dict[int, Array]:
        """Run a step; returns the logits by slot."""
        step = self.step(rows or {}, chunk, is_last)
        logits = self.backend.run(step)
        assert logits.shape == (step.num_logits, VOCAB)
        return self.note(step, logits)

    def note(self, step: Step, logits: Array) -> dict[int, Array]:
        slots = [row.slot for row in step.decode]
        for row in step.decode:
            self.held[row.slot].append(row.token)
        if step.prefill is not None:
            self.held[step.prefill.slot] += step.prefill.tokens
            slots += [step.prefill.slot] * step.prefill.is_last
        return dict(zip(slots, logits.copy(), strict=True))

    def check(self, logits: Mapping[int, Array]) -> None:
        """Compare with the sums in numpy over the weights that each slot is computed with."""
        for slot, row in logits.items():
            weights = WEIGHTS if self.pinned[slot] else SECOND
            wanted = expected_logits(self.held[slot], weights)[-1]
            np.testing.assert_allclose(row, wanted, atol=5e-5, err_msg=f"slot {slot}")


@contextmanager
def slots(folder: Path, pinned: Mapping[int, bool], batch_from: int = 1) -> Iterator[Slots]:
    made = Slots(folder, pinned, batch_from)
    with closing(made.backend):
        yield made


MIXED = {0: True, 1: False, 2: True, 3: False}


def test_rows_of_one_step_take_their_forms(folder: Path) -> None:
    with slots(folder, MIXED) as two:
        for slot in range(SLOTS):
            two.check(two.run(chunk=(slot, tokens(3 + 2 * slot, slot))))
        for token in range(4):  # in an order that is not that of the slots
            two.check(two.run({3: token, 0: 5, 2: 7, 1: token}))


def test_the_forms_differ_by_more_than_the_checks_allow(folder: Path) -> None:
    """Without pinning, the same steps are not what they are checked against."""
    with slots(folder, dict.fromkeys(range(SLOTS), False)) as two:
        two.run(chunk=(0, tokens(5, 0)))
        (row,) = two.run({0: 1}).values()
    wanted = expected_logits([*tokens(5, 0), 1])[-1]
    assert np.abs(row - wanted).max() > 100 * 5e-5


@pytest.mark.parametrize("slot", range(SLOTS))
@pytest.mark.parametrize("is_pinned", [False, True])
def test_a_chunk_stands_anywhere_among_rows_of_both(
    folder: Path, slot: int, is_pinned: bool
) -> None:
    """Its slot is idle in the runs of the other part, between its chunks too."""
    with slots(folder, {**MIXED, slot: is_pinned}) as two:
        rows = [other for other in range(SLOTS) if other != slot]
        for other in rows:
            two.run(chunk=(other, tokens(2 + other, other)))
        prompt = tokens(12, 9)
        for start, stop in ((0, 1), (1, 6), (6, 7), (7, 12)):
            chunk = (slot, prompt[start:stop])
            two.check(two.run(dict.fromkeys(rows, start), chunk, is_last=stop == 12))
        two.check(two.run(dict.fromkeys(range(SLOTS), 3)))


def test_the_rest_takes_the_form_of_its_own_number(folder: Path) -> None:
    """Five tokens of a step are many; the three of it that are not pinned are few."""
    with slots(folder, MIXED, batch_from=4) as two:
        for slot in (0, 1, 2):
            two.run(chunk=(slot, tokens(3, slot)))
        logits = two.run({0: 1, 1: 1, 2: 1}, (3, [5, 6]))
        two.pinned = dict.fromkeys(range(SLOTS), True)
        two.check(logits)
        two.pinned = MIXED
        two.held[3] = []
        logits = two.run({0: 2, 1: 2, 2: 2}, (3, [5, 6, 7]))
        two.check({slot: logits[slot] for slot in (0, 2, 3)})


@pytest.mark.parametrize("is_pinned", [False, True])
def test_a_prompt_is_scored_with_its_form(folder: Path, is_pinned: bool) -> None:
    with slots(folder, {**MIXED, 1: is_pinned}) as two:
        for slot in (0, 2, 3):
            two.run(chunk=(slot, tokens(3, slot)))
        prompt, found = tokens(9, 4), []
        for start, stop in ((0, 5), (5, 8), (8, 9)):  # the last of one token
            step = two.step({0: 1, 2: 2, 3: 3}, (1, prompt[start:stop]), stop == 9)
            assert step.prefill is not None
            step = replace(step, prefill=replace(step.prefill, is_scored=True))
            logits, scores = run_step(two.backend, step)
            assert scores is not None
            two.check(two.note(step, logits))
            found.append(scores)
        wanted = expected_logits(prompt, WEIGHTS if is_pinned else SECOND)
        np.testing.assert_allclose(np.concatenate(found), wanted, atol=5e-5)


def test_slots_fill_to_their_last_position_to_spare(folder: Path) -> None:
    with slots(folder, MIXED) as two:
        for slot in range(SLOTS):
            two.run(chunk=(slot, tokens(CAPACITY - 2, slot)))
        two.check(two.run(dict.fromkeys(range(SLOTS), 1)))
        assert {len(held) for held in two.held} == {CAPACITY - 1}
        two.held[1] = []  # idle between full ones, and then not
        two.check(two.run(chunk=(1, [4, 5])))
        two.check(two.run({1: 3}))


def test_the_parts_of_a_step_are_all_of_it() -> None:
    rows = tuple(DecodeRow(s, 10 + s, 4 + s, is_pinned=s in (0, 3)) for s in (3, 1, 0))
    step = Step(rows, PrefillChunk(2, (1, 2), 7, True, is_pinned=True), (4, 5, 7, 7))
    pinned, rest = split_pinned(step)
    assert (pinned.decode, rest.decode) == ((rows[0], rows[2]), (rows[1],))
    assert (pinned.prefill, rest.prefill) == (step.prefill, None)
    assert (pinned.places, rest.places) == ((0, 2, 3), (1,))
    assert (pinned.lengths, rest.lengths) == ((4, 5, 7, 7), (5, 5, 9, 8))
    assert (pinned.tokens, rest.tokens) == (4, 1)


FEEDS = st.lists(
    st.tuples(
        st.sets(st.integers(0, SLOTS - 1)),  # rows, of the slots that hold something
        st.integers(0, SLOTS - 1),  # the slot of a chunk, unless it is a row
        st.integers(0, 4),  # its tokens
        st.booleans(),
        st.integers(0, VOCAB - 1),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=SLOTS, max_size=SLOTS), st.integers(1, 6), FEEDS)
def test_what_is_pinned_is_the_same_bit_for_bit_as_alone(
    folder: Path,
    pins: list[bool],
    batch_from: int,
    feeds: list[tuple[set[int], int, int, bool, int]],
) -> None:
    """Logits and cache of any mix of rows and chunks, against the slot fed by itself."""
    pinned = dict(enumerate(pins))
    with slots(folder, pinned, batch_from) as together, slots(folder, pinned, NEVER) as alone:
        for wanted, slot, count, is_last, token in feeds:
            held = together.held
            rows = {s: token for s in sorted(wanted) if held[s] and len(held[s]) < CAPACITY - 1}
            chunk = None
            if slot not in rows and count and len(held[slot]) + count < CAPACITY:
                chunk = (slot, [(token + i) % VOCAB for i in range(count)])
            if not rows and chunk is None:
                continue
            got = together.run(rows, chunk, is_last)
            for row in filter(pinned.get, rows):
                same = alone.run({row: token})[row]
                np.testing.assert_array_equal(got[row], same)
            if chunk is not None and pinned[slot]:
                for each, same in alone.run(None, chunk, is_last).items():
                    np.testing.assert_array_equal(got[each], same)
            if batch_from == 1:
                together.check(got)
        for slot in filter(pinned.get, range(SLOTS)):
            length = len(together.held[slot])
            cache = alone.backend.cache(slot, length)
            for name, array in together.backend.cache(slot, length).items():
                np.testing.assert_array_equal(array, cache[name])
