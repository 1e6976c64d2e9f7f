"""An engine directory as a model to evaluate."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from edgellama.benchmark.greedy import generate_greedily
from edgellama.benchmark.language_model import OnAnswer
from edgellama.runtime.backend import Logits, ScoringBackend
from edgellama.runtime.load import load_backend
from edgellama.runtime.manifest import Manifest, check_files, read_manifest
from edgellama.runtime.text import TextCodec


class EngineModel:
    """The backend of an engine, run by the very steps of serving; a `LanguageModel`."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        codec: TextCodec,
        backend: ScoringBackend,
    ) -> None:
        precision = manifest.profile.precision
        self.name = str(directory)
        self.precision = f"{precision.weights} / {precision.embedding} / {precision.kv}"
        self.size_bytes = manifest.bytes
        self.codec = codec
        self.vocab_size = backend.vocab_size
        self.capacity = backend.capacity
        self.chunk = manifest.profile.limits.prefill_chunk
        self._backend = backend

    @classmethod
    def load(cls, directory: Path, *, threads: int | None = None) -> EngineModel:
        """Open an engine directory, every file compared with its sha256; raises EngineError."""
        manifest = read_manifest(directory)
        check_files(directory, manifest)
        codec = TextCodec.load(directory)
        return cls(directory, manifest, codec, load_backend(directory, manifest, threads=threads))

    def run_tokens(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """Feed `tokens` at `start`; returns float32 `[len(tokens), vocab]`."""
        return self._backend.run_tokens(slot, tokens, start)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Collection[int],
        on_answer: OnAnswer | None = None,
    ) -> list[list[int]]:
        """Return the greedy continuation of each prompt; see `generate_greedily`."""
        return generate_greedily(
            self._backend,
            prompts,
            max_new_tokens=max_new_tokens,
            stop_ids=stop_ids,
            chunk=self.chunk,
            on_answer=on_answer,
        )

    def close(self) -> None:
        """Free the weights."""
        self._backend.close()
