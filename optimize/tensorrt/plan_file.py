"""The file that a build writes: whole, or not there at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from edgellama.optimize.tensorrt.library import Config, Library, Network, NetworkBuilder
    from edgellama.optimize.tensorrt.library import StreamWriter as _Writer


@contextmanager
def replaced_when_done(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside `path` that takes its place at the end, and goes on any error."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class PlanStream:
    """Take the pieces of a plan and keep the exception that a write raised: one that crossed native
    code would end the process, and a short write is not noticed there."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.failure: BaseException | None = None

    def write(self, piece: bytes | memoryview) -> int:
        """Return the bytes written: all of them, or none after a failure."""
        if self.failure is not None:
            return 0
        try:
            return self._stream.write(piece)
        except BaseException as error:
            self.failure = error
            return 0


def _make_writer(library: Library, write: Callable[[bytes], int]) -> _Writer:
    if not TYPE_CHECKING:
        _Writer = library.IStreamWriter

    class Writer(_Writer):
        def __init__(self) -> None:
            _Writer.__init__(self)

        def write(self, data: bytes) -> int:
            return write(data)

    return Writer()


def build_into(
    library: Library,
    builder: NetworkBuilder,
    network: Network,
    config: Config,
    stream: PlanStream,
) -> bool:
    """Build the engine and write its plan; returns whether that succeeded.

    In pieces where the library can (10.10 and later), which saves a copy of the whole plan: for one
    of 0.8 GB the peak was 2.0 instead of 3.4 GB.
    """
    if hasattr(builder, "build_serialized_network_to_stream"):
        writer = _make_writer(library, stream.write)
        return builder.build_serialized_network_to_stream(network, config, writer)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return False
    return stream.write(memoryview(plan)) == plan.nbytes
