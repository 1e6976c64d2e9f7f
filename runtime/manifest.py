"""`engine.json`: what an engine directory holds, and the check that it still does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgellama.profiles.model import ModelConfig, RopeScaling
from edgellama.profiles.profile import Profile, profile_from_dict

SCHEMA_VERSION = 3
MANIFEST_NAME = "engine.json"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Kind:
    """A kind of directory that a manifest describes: its noun, the manifest's file name, all files
    that the manifest does not list, and what to do when it is missing or damaged."""

    noun: str
    manifest: str
    unlisted: tuple[str, ...]
    make: str
    again: str


ENGINE = Kind(
    "engine",
    MANIFEST_NAME,
    (MANIFEST_NAME,),
    "make one with `edgellama build PROFILE --out DIR`",
    "rebuild the engine",
)


class EngineError(ValueError):
    """An engine directory that is missing, incomplete, altered or of another version."""


@dataclass(frozen=True)
class KvLayout:
    """The KV pool: a `[slots, kv_heads, capacity, head_dim]` key and value array a layer."""

    layers: int
    kv_heads: int
    head_dim: int
    slots: int
    capacity: int
    dtype: str  # numpy name

    def __post_init__(self) -> None:
        for name in ("layers", "kv_heads", "head_dim", "slots", "capacity"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise EngineError(f"kv.{name} is {value!r}; it must be an integer >= 1")

    @property
    def bytes_per_token(self) -> int:
        """Bytes one token takes over all layers, keys and values."""
        sizes = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "float8_e4m3fn": 1}
        return 2 * self.layers * self.kv_heads * self.head_dim * sizes[self.dtype]


@dataclass(frozen=True)
class TensorInfo:
    """One graph input or output: numpy dtype name, and a size or a symbol for each axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class FileRecord:
    """Identity of one file of the directory."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The whole of `engine.json`; `files` names every other file of the directory.

    `batch_graph` is the graph of large steps, where the engine has a second form of the weights.
    """

    profile: Profile
    model: ModelConfig
    source: str
    fingerprint: str
    graph: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    kv: KvLayout
    files: Mapping[str, FileRecord]
    versions: Mapping[str, str]
    build: Mapping[str, Any]
    verify: Mapping[str, Any]
    batch_graph: str | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all files besides `engine.json`."""
        return sum(record.bytes for record in self.files.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        raw = asdict(self)
        return {"schema_version": SCHEMA_VERSION, **raw, "bytes": self.bytes}


def file_sha256(path: Path) -> str:
    """Return the hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def record_files(directory: Path, kind: Kind = ENGINE) -> dict[str, FileRecord]:
    """Measure every file of a staged directory except the manifest."""
    return {
        path.name: FileRecord(file_sha256(path), path.stat().st_size)
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name not in kind.unlisted
    }


def write_manifest(directory: Path, manifest: Manifest, kind: Kind = ENGINE) -> None:
    """Write the manifest into a (staged) directory."""
    text = json.dumps(manifest.as_dict(), indent=2, ensure_ascii=False)
    (directory / kind.manifest).write_text(text + "\n", encoding="utf-8")


def _manifest_from_dict(raw: Mapping[str, Any]) -> Manifest:
    for key in ("graph", "batch_graph"):  # a path to elsewhere would be run without a check
        if raw[key] not in raw["files"] and not (key == "batch_graph" and raw[key] is None):
            raise EngineError(f"{key} is {raw[key]!r}, which is not among its files")
    model = dict(raw["model"])
    if model["rope_scaling"] is not None:
        model["rope_scaling"] = RopeScaling(**model["rope_scaling"])

    def tensors(key: str) -> tuple[TensorInfo, ...]:
        return tuple(TensorInfo(t["name"], t["dtype"], tuple(t["shape"])) for t in raw[key])

    return Manifest(
        profile=profile_from_dict(raw["profile"], where="engine.json profile"),
        model=ModelConfig(**model),
        source=raw["source"],
        fingerprint=raw["fingerprint"],
        graph=raw["graph"],
        batch_graph=raw["batch_graph"],
        inputs=tensors("inputs"),
        outputs=tensors("outputs"),
        kv=KvLayout(**raw["kv"]),
        files={name: FileRecord(**record) for name, record in raw["files"].items()},
        versions=raw["versions"],
        build=raw["build"],
        verify=raw["verify"],
    )


def read_manifest(directory: Path, kind: Kind = ENGINE) -> Manifest:
    """Read the manifest; raises EngineError that says what is wrong and what to do."""
    path = directory / kind.manifest
    if not path.is_file():
        raise EngineError(
            f"{directory} is not {'an' if kind is ENGINE else 'a'} {kind.noun}: {kind.manifest} "
            f"is missing; {kind.make}"
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw["schema_version"]
        if version == SCHEMA_VERSION:
            return _manifest_from_dict(raw)
    # ValueError: no JSON, no UTF-8, and what the records refuse.
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{path} is damaged ({error!r}); {kind.again}") from error
    raise EngineError(
        f"{path}: schema_version is {version!r}; this version reads {SCHEMA_VERSION}; {kind.again}"
    )


def check_files(directory: Path, manifest: Manifest, kind: Kind = ENGINE) -> None:
    """Compare every file with its record; raises EngineError naming the first that differs."""
    present = {path.name for path in directory.iterdir() if path.is_file()} - {*kind.unlisted}
    what = f"{kind.noun} {directory}"
    for name, record in manifest.files.items():
        path = directory / name
        if name not in present:
            raise EngineError(f"{what}: file {name} is missing; {kind.again}")
        size = path.stat().st_size
        if size != record.bytes:
            raise EngineError(
                f"{what}: file {name} has {size} bytes, {kind.manifest} says {record.bytes}; "
                f"{kind.again}"
            )
        if file_sha256(path) != record.sha256:
            raise EngineError(
                f"{what}: file {name} was altered (sha256 differs from {kind.manifest}); "
                f"{kind.again}"
            )
    for name in sorted(present - set(manifest.files)):
        raise EngineError(f"{what}: file {name} is not listed in {kind.manifest}; remove it")
