"""`edgellama evaluate`: perplexity of an engine on a text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click

from edgellama.cli.engine import engine_directory
from edgellama.cli.progress import progress
from edgellama.cli.verb import Verb, print_json


@click.command("evaluate", cls=Verb)
@click.argument("engine")
@click.option("--text", type=click.Path(path_type=Path), required=True, help="UTF-8 text.")
@click.option("--split", help="What separates documents; without it the text is one document.")
@click.option(
    "--reference", help="Another engine of the same model: reports the divergence from it."
)
@click.option("--limit-documents", type=click.IntRange(min=1), help="Only the first N documents.")
@click.option("--threads", type=int, help="Compute threads; the profile's by default.")
def command(
    engine: str,
    text: Path,
    split: str | None,
    reference: str | None,
    limit_documents: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure the perplexity of ENGINE on a text, each document alone.

    Each document is stripped, starts with BOS and is cut at the capacity of a slot. The reference
    is an engine too, the fp32 one of the same checkpoint for example.
    """
    directory = engine_directory(engine)
    other_directory = engine_directory(reference) if reference is not None else None
    size = text.stat().st_size  # fails here when there is no such file

    from edgellama.benchmark.perplexity import EvaluationError, Reference, documents, evaluate
    from edgellama.runtime.divergence import Divergence
    from edgellama.runtime.manifest import check_files, read_manifest
    from edgellama.runtime.ort import OrtBackend
    from edgellama.runtime.text import TextCodec

    manifest = read_manifest(directory)
    check_files(directory, manifest)
    codec = TextCodec.load(directory)
    backend = OrtBackend.load(directory, manifest, threads=threads)
    other = None
    if other_directory is not None:
        theirs = read_manifest(other_directory)
        check_files(other_directory, theirs)
        if theirs.model.vocab_size != manifest.model.vocab_size:
            raise EvaluationError(
                f"--reference {reference} has a vocabulary of {theirs.model.vocab_size} entries, "
                f"the engine {manifest.model.vocab_size}; give an engine of the same model"
            )
        scorer = OrtBackend.load(other_directory, theirs, threads=threads)
        other = Reference(scorer, Divergence())
    result = None
    with progress() as report:

        def texts() -> Iterator[str]:
            for document, done in islice(documents(text, split), limit_documents):
                yield document
                report("bytes of text", done, size)

        chunk = manifest.profile.limits.prefill_chunk
        bos_id = codec.generation.bos_id
        for running in evaluate(backend, codec, bos_id, texts(), chunk=chunk, reference=other):
            result = running
    backend.close()
    if other is not None:
        other.scorer.close()
    assert result is not None, "evaluate raises when there is nothing to score"
    against = other.divergence.as_dict() if other is not None else {}
    if as_json:
        print_json({**result.as_dict(), **against})
        return
    click.echo(f"perplexity     {result.perplexity:.4f} a token")
    click.echo(f"bits per byte  {result.bits_per_byte:.4f}")
    click.echo(f"tokens         {result.tokens} in {result.documents} documents")
    if against:
        click.echo(
            f"divergence     {against['kl_mean']:.5f} nats on average, "
            f"{against['kl_p99']:.4f} at the 99th percentile"
        )
        click.echo(f"same best      {100 * against['top1_agreement']:.2f} % of tokens")
