"""The state of an unfinished calibration: what each layer gave, so that the next run goes on."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from edgellama.calibration.recipe import CalibrationError
from edgellama.calibration.scale_files import Floats, pack, unpack, write_durably
from edgellama.calibration.scales import LinearScales

STATE_NAME = "partial.json"
_LOCK_NAME = "lock"
# Outputs of this many layers stay: the last, and the one before should the last be damaged.
_KEPT_OUTPUTS = 2


class Partial:
    """A working folder: `layer-N` has the scales of layer N, `outputs-N` what it passed on.

    A file counts only when `partial.json`, written after it, has its sha256. So a run that is
    killed loses the layer it was in, and a file that was damaged since is made again.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._digests = self._read_state()
        if not self._digests:  # of another model, text or recipe, or nothing yet
            for path in folder.iterdir():
                if path.name != _LOCK_NAME:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def scales(self, layer: int) -> tuple[dict[str, LinearScales], dict[str, Floats]] | None:
        """Return the linears and cache of a layer, or None where they are absent or damaged."""
        name = f"layer-{layer}"
        data = self._intact(name)
        return None if data is None else unpack(data, self._folder / name)

    def outputs(self, layer: int) -> list[torch.Tensor] | None:
        """Return what a layer passed on, [tokens, hidden] a sequence; None as `scales` does."""
        data = self._intact(f"outputs-{layer}")
        if data is None:
            return None
        tensors = load(data)
        return [tensors[str(index)] for index in range(len(tensors))]

    def keep(
        self,
        layer: int,
        linears: Mapping[str, LinearScales],
        cache: Mapping[str, Floats],
        outputs: Sequence[torch.Tensor],
    ) -> None:
        """Write the scales of a layer and what it passed on; older outputs are not needed."""
        self._write(f"layer-{layer}", pack(linears, cache))
        tensors = {str(index): state.contiguous() for index, state in enumerate(outputs)}
        self._write(f"outputs-{layer}", save(tensors))
        stale = f"outputs-{layer - _KEPT_OUTPUTS}"
        self._digests.pop(stale, None)
        state = {"fingerprint": self._fingerprint, "sha256": self._digests}
        write_durably(self._folder / STATE_NAME, json.dumps(state, indent=2).encode())
        (self._folder / stale).unlink(missing_ok=True)

    def _write(self, name: str, data: bytes) -> None:
        write_durably(self._folder / name, data)
        self._digests[name] = hashlib.sha256(data).hexdigest()

    def _intact(self, name: str) -> bytes | None:
        path = self._folder / name
        if name not in self._digests or not path.is_file():
            return None
        data = path.read_bytes()
        return data if hashlib.sha256(data).hexdigest() == self._digests[name] else None

    def _read_state(self) -> dict[str, str]:
        try:
            state: Any = json.loads((self._folder / STATE_NAME).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}  # none yet, or damaged: without digests no file can be trusted
        if not isinstance(state, dict) or state.get("fingerprint") != self._fingerprint:
            return {}
        digests = state.get("sha256")
        return digests if isinstance(digests, dict) else {}


def partial_folder(out: Path) -> Path:
    """Return the working folder of a calibration into `out`: beside it, on the same disk."""
    out = out.resolve()
    return out.parent / f"{out.name}.partial"


@contextmanager
def open_partial(out: Path, fingerprint: str) -> Iterator[Partial]:
    """Yield the state of a calibration into `out`; it stays when the block fails and goes after it.

    Raises CalibrationError while another process calibrates into the same folder.
    """
    folder = partial_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK_NAME).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CalibrationError(
                f"another process is calibrating into {out}; wait for it or choose another folder"
            ) from error
        yield Partial(folder, fingerprint)
        shutil.rmtree(folder)
