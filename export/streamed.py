"""Tensors that are written part by part, so that a large one is never in memory whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Parts = Callable[[], Iterable[npt.NDArray[Any]]]


class StreamedTensor(ir.LazyTensor):
    """An `ir` tensor whose content comes in parts, anew each time it is wanted.

    `parts()` yields arrays in file order: of the tensor's element type and in any shape, or, where
    an element has fewer than 8 bits, the packed bytes as uint8 (for int4 two elements a byte, the
    low nibble first; a part holds whole bytes). Writing holds one part; `numpy` holds all.
    """

    def __init__(self, parts: Parts, dtype: ir.DataType, shape: Sequence[int], name: str) -> None:
        super().__init__(self._whole, dtype, ir.Shape(shape), name=name)
        self._parts = parts

    def __repr__(self) -> str:
        """Return a description; the base class would describe `_whole`, which describes self."""
        return f"{self._repr_base()}(name={self.name!r})"

    def chunks(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the tensor's bytes in file order, one flat uint8 array a part.

        Raises ValueError when a part has another element type, or all of them another length.
        """
        wanted = np.dtype(np.uint8) if self.dtype.bitwidth < 8 else self.dtype.numpy()
        done = 0
        for part in self._parts():
            if part.dtype != wanted:
                raise ValueError(f"a part of {self.name} is {part.dtype}; {wanted} is needed")
            chunk = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
            done += chunk.size
            yield chunk
        if done != self.nbytes:
            raise ValueError(f"the parts of {self.name} have {done} bytes; it has {self.nbytes}")

    def tofile(self, file: BinaryIO) -> None:
        """Write the bytes to an open binary file, one part after the other."""
        for chunk in self.chunks():
            file.write(chunk.data)

    def _whole(self) -> ir.TensorProtocol:
        content = np.empty(self.nbytes, np.uint8)  # costs nothing where it is not written to
        done = 0
        for chunk in self.chunks():
            if chunk.size == self.nbytes:
                content = chunk
            else:
                content[done : done + chunk.size] = chunk
            done += chunk.size
        if self.dtype.bitwidth < 8:
            return ir.PackedTensor(content, self.dtype, shape=self.shape, name=self.name)
        array = content.view(self.dtype.numpy()).reshape(self.shape.numpy())
        return ir.Tensor(array, dtype=self.dtype, name=self.name)
