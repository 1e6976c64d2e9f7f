"""What the graph of each target takes and gives, and the check of one against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgellama.runtime.manifest import EngineError, KvLayout, Manifest, TensorInfo

# Positions of the flattened [batch * sequence] whose logits are wanted.
_ROWS = TensorInfo("logits_indices", "int64", ("rows",))
_IDS = TensorInfo("input_ids", "int64", ("batch", "sequence"))
_TENSORRT = (
    _IDS,
    TensorInfo("position_ids", "int64", ("batch", "sequence")),
    # The first cache position that the new tokens of a row are written to.
    TensorInfo("write_indices", "int64", ("batch",)),
    _ROWS,
)
# Of a graph of target ort that takes rows and a chunk in one step.
_MIXED = (
    # The new tokens of the rows, one each, and of one chunk, behind one another.
    TensorInfo("input_ids", "int64", (1, "tokens")),
    # Which of the tokens each row of the batch, and each position of the chunk, is.
    TensorInfo("decode_rows", "int64", ("batch", 1)),
    TensorInfo("chunk_rows", "int64", (1, "chunk")),
    # Where each token stands in the batch and the chunk behind it.
    TensorInfo("token_order", "int64", (1, "tokens")),
    TensorInfo("seqlens_k", "int32", ("batch",)),
    TensorInfo("total_sequence_length", "int32", ()),
    # The same of the chunk.
    TensorInfo("chunk_seqlens_k", "int32", (1,)),
    TensorInfo("chunk_total_sequence_length", "int32", ()),
    _ROWS,
)
# Target -> its inputs before the caches.
_FIRST: Mapping[str, tuple[TensorInfo, ...]] = {
    "ort": (
        _IDS,
        # Total length - 1 of each row, cache and new tokens together; and the largest total.
        TensorInfo("seqlens_k", "int32", ("batch",)),
        TensorInfo("total_sequence_length", "int32", ()),
        _ROWS,
    ),
    "trt-native": _TENSORRT,
    "trt-plugin": _TENSORRT,
    "trt-plain": _TENSORRT,
}


def graph_inputs(target: str, kv: KvLayout, *, is_mixed: bool = False) -> tuple[TensorInfo, ...]:
    """Return a target's inputs: one graph serves a chunk `[1, n]` and a ragged decode `[n, 1]`.

    One that `is_mixed` takes both in one step, each with a cache of its own.
    """
    first = _MIXED if is_mixed else _FIRST[target]
    return (*first, *_caches("past_key_values", kv, is_mixed))


def graph_outputs(
    kv: KvLayout, vocab_size: int, *, is_mixed: bool = False
) -> tuple[TensorInfo, ...]:
    """Return the outputs; each `present` is bound to the memory of its `past_key_values`."""
    return (
        TensorInfo("logits", "float32", ("rows", vocab_size)),
        *_caches("present", kv, is_mixed),
    )


def _caches(prefix: str, kv: KvLayout, is_mixed: bool) -> list[TensorInfo]:
    if not is_mixed:
        return _layers(prefix, kv, ("batch", kv.kv_heads, kv.capacity, kv.head_dim))
    # Rows or a chunk that a step lacks have a cache of one position.
    rows = ("batch", kv.kv_heads, "capacity", kv.head_dim)
    chunk = (1, kv.kv_heads, "chunk_capacity", kv.head_dim)
    return [*_layers(prefix, kv, rows), *_layers(f"chunk_{prefix}", kv, chunk)]


def _layers(prefix: str, kv: KvLayout, shape: tuple[int | str, ...]) -> list[TensorInfo]:
    return [
        TensorInfo(f"{prefix}.{layer}.{kind}", kv.dtype, shape)
        for layer in range(kv.layers)
        for kind in ("key", "value")
    ]


def check_graph(
    graph: Path,
    manifest: Manifest,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    *,
    is_mixed: bool = False,
) -> None:
    """Compare the tensors a runtime found in `graph` with `engine.json` and with the contract.

    `engine.json` tells of the first graph; a second one has no more than the contract.
    Raises EngineError that names the first difference. A size that the contract fixes may be
    dynamic in the graph, but not the other way round; `engine.json` must agree exactly.
    """
    target = manifest.profile.build.target
    wanted_inputs = graph_inputs(target, manifest.kv, is_mixed=is_mixed)
    wanted_outputs = graph_outputs(manifest.kv, manifest.model.vocab_size, is_mixed=is_mixed)
    for kind, found, recorded, wanted in (
        ("input", inputs, manifest.inputs, wanted_inputs),
        ("output", outputs, manifest.outputs, wanted_outputs),
    ):
        have = _by_name(found)
        if graph.name == manifest.graph:
            _compare(f"{graph}: {kind}", have, "engine.json says", _by_name(recorded), exact=True)
        _compare(f"{graph}: {kind}", have, "the runtime needs", _by_name(wanted), exact=False)


def _by_name(tensors: Sequence[TensorInfo]) -> Mapping[str, TensorInfo]:
    return {tensor.name: tensor for tensor in tensors}


def _compare(
    what: str,
    have: Mapping[str, TensorInfo],
    source: str,
    want: Mapping[str, TensorInfo],
    *,
    exact: bool,
) -> None:
    for name in [*want, *(name for name in have if name not in want)]:
        if not _same(have.get(name), want.get(name), exact):
            raise EngineError(
                f"{what} {name} is {_describe(have.get(name))}; {source} "
                f"{_describe(want.get(name))}; rebuild the engine"
            )


def _same(have: TensorInfo | None, want: TensorInfo | None, exact: bool) -> bool:
    if have is None or want is None:
        return False
    if have.dtype != want.dtype or len(have.shape) != len(want.shape):
        return False
    return all(_same_size(h, w, exact) for h, w in zip(have.shape, want.shape, strict=True))


def _same_size(have: int | str | None, want: int | str | None, exact: bool) -> bool:
    if isinstance(have, int):
        return have == want
    return not exact or not isinstance(want, int)


def _describe(tensor: TensorInfo | None) -> str:
    if tensor is None:
        return "absent"
    sizes = (str(size) if isinstance(size, int) else "?" for size in tensor.shape)
    return f"{tensor.dtype} [{', '.join(sizes)}]"
