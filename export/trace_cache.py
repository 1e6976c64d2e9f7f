"""Traced graphs are kept: a graph follows from the configuration alone, and tracing takes long."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir
from transformers import LlamaConfig

from edgellama.profiles.cache_folder import cache_folder

_LIBRARIES = ("torch", "transformers", "onnx-ir", "onnxscript", "optimum")
_STEPS = ("trace", "traced_llama", "trace_cache")
_ABSENT = "absent"  # the file of weights that have no data yet
_DIGEST_BYTES = 32
# What a graph cannot depend on: how weights begin, what ends a text, where the file came from.
_UNREAD = {
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",  # an argument of the trace
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
}


def kept_trace(
    config: LlamaConfig, dtype: str, trace: Callable[[LlamaConfig, str], ir.Model]
) -> ir.Model:
    """Return what `trace` makes of a configuration, from an earlier call where there was one.

    A result that is damaged is made again. Raises OSError where the user's cache cannot be written.
    """
    path = cache_folder("traces") / f"{_key(config, dtype)}.onnx"
    content = _read(path)
    if content is None:
        content = _without_data(trace(config, dtype))
        _write(path, content)
    model = ir.from_proto(onnx.ModelProto.FromString(content))
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = None
    for node in model.graph:  # a file has the versions by domain only
        node.version = model.graph.opset_imports[node.domain]
    return model


def _key(config: LlamaConfig, dtype: str) -> str:
    """Return the name of a result: a digest of everything that it depends on."""
    settings = {name: value for name, value in config.to_dict().items() if name not in _UNREAD}
    used = {name: version(name) for name in _LIBRARIES}
    found = sha256(json.dumps([settings, dtype, used], sort_keys=True).encode())
    for name in _STEPS:
        found.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return found.hexdigest()


def _without_data(model: ir.Model) -> bytes:
    """Return the file of a graph; its weights are there by name, type and shape."""
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            assert value.dtype is not None and value.shape is not None, name
            value.const_value = ir.ExternalTensor(
                _ABSENT, 0, 0, value.dtype, shape=ir.Shape(value.shape), name=name
            )
    proto = ir.to_proto(model)
    assert isinstance(proto, onnx.ModelProto)
    return proto.SerializeToString(deterministic=True)


def _read(path: Path) -> bytes | None:
    """Return an earlier result; None where there is none, or where it is damaged."""
    if not path.is_file():
        return None
    found = path.read_bytes()
    digest, content = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
    return content if sha256(content).digest() == digest else None


def _write(path: Path, content: bytes) -> None:
    """Replace the file at once: another build may read it at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(sha256(content).digest() + content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
