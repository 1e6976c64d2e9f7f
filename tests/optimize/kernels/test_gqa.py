"""One expected output through every implementation of the fused attention."""

from __future__ import annotations

from copy import deepcopy
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("triton")
pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runs import SMALL, inputs_of, launched, runs

from edgellama.optimize.kernels.attention_shape import DTYPES, AttentionShape
from edgellama.optimize.kernels.reference import (
    LARGEST,
    ROUNDING,
    Case,
    expected,
    make_case,
    tolerance,
    wide,
)
from edgellama.profiles.kernels import HEAD_SIZES, LARGEST_GROUP

CAPACITY, SLOTS = 96, 6
# (slot, tokens, tokens held): a first token, an idle row, a prompt's end, a full slot.
ROWS = [(1, 1, 0), (0, 0, 0), (4, 17, 40), (3, 1, CAPACITY - 1)]
NAMES = ("one launch", "three pieces", "append, then attend", "function", "function of pieces")
every_run = pytest.mark.parametrize("name", NAMES)


def check(case: Case, name: str) -> None:
    """Run one implementation: its attention, what it wrote, and what it left alone."""
    before = deepcopy(case)
    found = expected(case)
    attention = runs(case.shape)[name](case)
    living = np.concatenate(
        [np.arange(first, first + count) for _, first, count, _ in case.rows.tolist()] or [[]]
    ).astype(int)
    error = np.abs(attention[living] - found.attention[living])
    assert error.max(initial=0.0) <= tolerance(case, found)
    check_cache(before.past_key, case.past_key, found.keys, case.shape)
    check_cache(before.past_value, case.past_value, found.values, case.shape)


def check_cache(
    before: npt.NDArray[np.generic],
    after: npt.NDArray[np.generic],
    written: dict[tuple[int, int], npt.NDArray[np.float64]],
    shape: AttentionShape,
) -> None:
    """New entries are the reference's, but for one code where a number lies between two."""
    raw = np.dtype(f"u{before.dtype.itemsize}")
    untouched = np.ones((before.shape[0], before.shape[2]), bool)
    off = total = 0
    for (slot, position), wanted in written.items():
        untouched[slot, position] = False
        found = wide(after[slot, :, position])
        if shape.kv_dtype == "int8":
            step = np.ones_like(wanted)
        elif shape.kv_dtype == "fp8":
            step = np.maximum(np.abs(wanted), 2.0**-6) * 2.0**-3
        else:
            step = np.maximum(np.abs(wanted), 2.0**-14) * 2 * ROUNDING[shape.kv_dtype]
        assert (np.abs(found - wanted) <= step * 1.001).all()
        off += int((found != wanted).sum())
        total += wanted.size
    # The reference divides and rotates in float64: numbers halfway between are few.
    assert off <= max(2, total // 50)
    same = before.view(raw).swapaxes(1, 2)[untouched] == after.view(raw).swapaxes(1, 2)[untouched]
    assert same.all(), "something else was written"


def shape_of(group: int, head_dim: int, dtype: str, kv: str, kv_heads: int = 2) -> AttentionShape:
    return AttentionShape(kv_heads, group, head_dim, dtype, dtype if kv == "same" else kv)


SHAPES = [
    shape_of(group, head_dim, dtype, kv)
    for (group, head_dim), dtype, kv in product(
        [(1, 16), (2, 32), (3, 64), (4, 128)], DTYPES, ["same", "int8", "fp8"]
    )
]


def label(shape: AttentionShape) -> str:
    return f"{shape.group}x{shape.head_dim} {shape.dtype} {shape.kv_dtype}"


def needs(shape: AttentionShape, name: str) -> None:
    if name not in runs(shape):
        pytest.skip("ONNX Runtime's CPU has no bfloat16")


@every_run
@pytest.mark.parametrize("shape", SHAPES, ids=label)
def test_ragged_rows(shape: AttentionShape, name: str) -> None:
    needs(shape, name)
    check(make_case(shape, ROWS, CAPACITY, slots=SLOTS), name)


@pytest.mark.slow
@every_run
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kv", ["same", "int8", "fp8"])
@pytest.mark.parametrize("head_dim", HEAD_SIZES)
@pytest.mark.parametrize("group", range(1, LARGEST_GROUP + 1))
def test_every_group_and_head_size(
    group: int, head_dim: int, kv: str, dtype: str, name: str
) -> None:
    shape = shape_of(group, head_dim, dtype, kv, kv_heads=1)
    needs(shape, name)
    rows = [(2, 3, 14), (0, 1, 31), (1, 0, 5)]
    check(make_case(shape, rows, 32, slots=3, seed=group), name)


def not_int(shape: AttentionShape) -> bool:
    return shape.kv_dtype != "int8"


def adversarial(kind: str, shape: AttentionShape) -> Case:
    """Return a case that a careless softmax or rounding gets wrong."""
    case = make_case(shape, ROWS, CAPACITY, slots=SLOTS, seed=5)
    own, heads, size = case.qkv.dtype, shape.heads, shape.head_dim
    query = slice(0, heads * size)
    keys = slice(heads * size, (heads + shape.kv_heads) * size)
    if kind == "zeros":
        case.qkv[:] = np.zeros((), own)
    elif kind == "equal keys":
        case.qkv[:, keys] = np.ones((), own)
        live = case.past_key if shape.is_quantized else np.nan_to_num(wide(case.past_key))
        case.past_key[:] = np.where(
            np.isfinite(wide(case.past_key)), np.ones_like(live), np.nan
        ).astype(case.past_key.dtype)
    elif kind == "large logits":
        case.qkv[:, query] = (wide(case.qkv[:, query]) * 60).astype(own)
    elif kind == "one dominating key":
        case.qkv[:, query] = np.full((), 20).astype(own)
        case.past_key[4, :, 7] = np.full((), 100 if shape.is_quantized else 20).astype(
            case.past_key.dtype
        )
    elif kind == "values near the limit":
        limit = 3e4 if shape.dtype == "fp16" else 1e30
        values = slice((heads + shape.kv_heads) * size, None)
        case.qkv[:, values] = np.full((), limit).astype(own)
    return case


KINDS = ("zeros", "equal keys", "large logits", "one dominating key", "values near the limit")


@every_run
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kv", ["same", "int8", "fp8"])
def test_adversarial_inputs(kv: str, kind: str, name: str) -> None:
    shape = shape_of(2, 32, "fp16", kv)
    case = adversarial(kind, shape)
    found = expected(case)
    attention = runs(shape)[name](case)
    assert np.isfinite(attention).all()
    # Logits of 1000 turn a rounded query into another choice between two keys, so the attention is
    # held to what it may choose from; where the choice is clear, to the choice.
    assert np.abs(attention).max() <= found.largest * (1 + 2.0**-10)
    if kind != "large logits":
        bar = 2.0**-7 if kind == "one dominating key" else 2.0**-9
        assert np.abs(attention - found.attention).max() <= bar * max(found.largest, 1.0)


def test_ragged_lengths_at_random() -> None:
    shape = shape_of(4, 16, "fp16", "int8", kv_heads=1)

    @settings(max_examples=25, deadline=None)
    @given(
        st.permutations(range(SLOTS)),
        st.lists(st.tuples(st.integers(0, 20), st.integers(0, 27)), min_size=1, max_size=SLOTS),
        st.integers(1, 5),
        st.booleans(),
        st.integers(0, 2**31),
    )
    def run(
        slots: list[int], lengths: list[tuple[int, int]], pieces: int, append: bool, seed: int
    ) -> None:
        rows = [(slot, count, past) for slot, (count, past) in zip(slots, lengths, strict=False)]
        if not any(count for _, count, _ in rows):
            rows[0] = (rows[0][0], 1, rows[0][2])
        case = make_case(shape, rows, 48, slots=SLOTS, seed=seed)
        before, found = deepcopy(case), expected(case)
        attention = launched(SMALL, pieces=pieces, append=append)(case)
        assert np.abs(attention - found.attention).max() <= tolerance(case, found)
        check_cache(before.past_key, case.past_key, found.keys, shape)
        check_cache(before.past_value, case.past_value, found.values, shape)

    run()


@pytest.mark.parametrize("kv", ["int8", "fp8"])
def test_what_a_narrow_cache_costs_is_bounded_by_its_steps(kv: str) -> None:
    """Against the float cache of the same numbers.

    Every key is off by half a step (int8) or 2^-4 of itself (E4M3, 3 bits and the hidden one) at
    most, so a logit by |q| . |dk| / sqrt(D) <= e. Weights then differ by a factor of exp(2 e), and
    the attention by (exp(2 e) - 1) of the largest value, plus a value's own error.
    """
    narrow, exact = shape_of(2, 32, "fp16", kv), shape_of(2, 32, "fp16", "same")
    case = make_case(narrow, ROWS, CAPACITY, slots=SLOTS, spread=0.5)
    reach = np.abs(wide(case.qkv)).max() * 2**0.5  # of a rotated key: no code is cut off
    case.key_scale[:] = case.value_scale[:] = reach / LARGEST[kv]
    floats = make_case(exact, ROWS, CAPACITY, slots=SLOTS, spread=0.5)
    floats.past_key[:] = (wide(case.past_key) * case.key_scale[:, None]).astype(np.float16)
    floats.past_value[:] = (wide(case.past_value) * case.value_scale[:, None]).astype(np.float16)
    assert (floats.qkv == case.qkv).all()
    found = launched(SMALL)(case)
    wanted = launched(SMALL)(floats)
    largest = np.abs(wide(case.qkv)).max()
    if kv == "int8":
        off_key, off_value = case.key_scale.max() / 2, case.value_scale.max() / 2
    else:
        off_key = off_value = largest * 2.0**-4
    queries = wide(case.qkv)[:, : narrow.heads * 32].reshape(-1, narrow.heads, 32)
    moved = np.abs(queries).sum(-1).max() * 2**0.5 * off_key / 32**0.5
    bound = (np.exp(2 * moved) - 1) * largest + off_value
    error = np.abs(found - wanted).max()
    assert 0 < error <= bound
    assert error < 0.2 * largest, "and far below the numbers themselves"


FAULTS = {
    "a position too far": lambda case: case.rows.__setitem__((2, 3), 41),
    "another slot": lambda case: case.rows.__setitem__((2, 0), 5),
    "a shorter past": lambda case: case.rows.__setitem__((2, 3), 39),
    "angles of the next position": lambda case: case.cos.__setitem__(
        slice(None), np.roll(case.cos, 1, 0)
    ),
    "another step": lambda case: case.key_scale.__imul__(np.float32(1.5)),
    "another step of the values": lambda case: case.value_scale.__imul__(np.float32(1.5)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    shape = shape_of(2, 32, "fp16", "int8")
    case = make_case(shape, ROWS, CAPACITY, slots=SLOTS)
    found = expected(case)
    FAULTS[fault](case)
    attention = launched(SMALL)(case)
    living = slice(0, len(attention))
    error = np.abs(attention[living] - found.attention[living])
    assert not error.max() <= 2 * tolerance(case, found)  # NaN is found too


REFUSED = [
    (lambda case: case.rows.__setitem__((0, 0), SLOTS), r"rows\[0\] names slot 6; there are 6"),
    (lambda case: case.rows.__setitem__((2, 0), 1), r"rows\[2\] names slot 1"),
    (lambda case: case.rows.__setitem__((2, 2), 30), r"rows\[2\] has 30 tokens from 1; qkv has 19"),
    (lambda case: case.rows.__setitem__((3, 3), CAPACITY), r"rows\[3\] adds 1 tokens to 96"),
    (lambda case: setattr(case, "key_scale", case.value_scale[:, :8].copy()), r"key_scale is \[2"),
    (lambda case: setattr(case, "cos", case.cos[:, :8].copy()), r"cos is \[96, 8\]"),
    (
        lambda case: setattr(case, "past_key", case.past_key[:, :1].copy()),
        r"past_key is \[6, 1, 96, 32\]; it must be \['\?', 2, 96, 32\]",
    ),
]


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_does_not_fit_is_refused(change: object, words: str) -> None:
    shape = shape_of(2, 32, "fp16", "int8")
    case = make_case(shape, ROWS, CAPACITY, slots=SLOTS)
    change(case)  # type: ignore[operator]
    with pytest.raises(ValueError, match=words):
        inputs_of(case).check(shape)
