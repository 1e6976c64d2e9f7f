"""The adapter of TensorRT on the real bindings, as far as they go without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellama.runtime.manifest import EngineError
from edgellama.runtime.tensorrt_engine import TensorRtEngine, import_library

rtx = pytest.importorskip("tensorrt_rtx")


def test_the_library_is_imported_by_name() -> None:
    assert import_library("tensorrt-rtx") is rtx


@pytest.mark.parametrize("host_code", [True, False])
def test_a_file_that_is_no_plan(tmp_path: Path, host_code: bool) -> None:
    """The real runtime reads the mapped file, and its log has the cause."""
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"no plan" * 1000)
    with pytest.raises(
        EngineError, match=r"model\.plan: tensorrt-rtx .* cannot load it: .*[Ss]erial"
    ):
        TensorRtEngine(plan, "tensorrt-rtx", host_code=host_code, streaming_budget=None)
