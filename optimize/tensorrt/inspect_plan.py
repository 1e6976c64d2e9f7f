"""The layers of a finished plan, as TensorRT's inspector describes them."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from edgellama.optimize.error import BuildError
from edgellama.optimize.tensorrt.library import knobs_of
from edgellama.optimize.tensorrt.log import logger_of
from edgellama.optimize.tensorrt.preflight import local_gpu, require_same_gpu
from edgellama.optimize.tensorrt.report import Kept

if TYPE_CHECKING:
    from edgellama.optimize.tensorrt.library import Library
    from edgellama.profiles.profile import Profile

LAYERS = "model.layers.json"


def inspect_plan(library: Library, plan: Path, profile: Profile) -> Kept:
    """Write `model.layers.json` beside the plan, or return why not: it takes a GPU to load one."""
    try:
        require_same_gpu(profile, local_gpu())
    except BuildError as error:
        return Kept(reason=f"the plan cannot be loaded here: {error}")
    log, messages = logger_of(library)
    runtime = library.Runtime(log)
    runtime.engine_host_code_allowed = knobs_of(profile).version_compatible
    # A mapped file is a buffer that every version takes.
    with (
        plan.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        engine = runtime.deserialize_cuda_engine(content)
    inspector = None if engine is None else engine.create_engine_inspector()
    if inspector is None:
        return Kept(reason=messages.explain("the plan cannot be loaded here"))
    path = plan.with_name(LAYERS)
    text = inspector.get_engine_information(library.LayerInformationFormat.JSON)
    path.write_text(text, encoding="utf-8")
    return Kept(file=path.name)
