"""A bundle of target `trt-plugin`: its kernels travel with it, by name and hash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from target_graph import precision_of, small_profile

from edgellama.optimize.build import build_engine
from edgellama.optimize.bundle import open_bundle
from edgellama.optimize.error import BuildError
from edgellama.optimize.kernels import compile as compile_module
from edgellama.optimize.kernels.kernel_files import KERNELS_NAME, read_kernels
from edgellama.profiles.kernels import Kernels
from edgellama.profiles.profile import Profile, ProfileError
from edgellama.runtime.manifest import EngineError


def plugin_profile(**kernels: Any) -> Profile:
    made = small_profile("trt-plugin", precision_of("fp16"), slots=2, capacity=64, prefill_chunk=16)
    return replace(made, kernels=Kernels(**kernels))


def test_the_bundle_names_its_kernels(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    stages: list[str] = []
    build_engine(
        plugin_profile(code="ptx", ptx_version="8.4"),
        make_checkpoint(),
        out,
        bundle=True,
        progress=lambda stage, done, total: stages.append(stage),
    )
    manifest = open_bundle(out)
    recorded = manifest.build["kernels"]
    found = read_kernels(out / KERNELS_NAME)
    assert [kernel["op"] for kernel in recorded] == [
        "FusedGQAPieces",
        "FusedGQAPieces",
        "CombinePieces",
    ]
    for record, (kernel, code) in zip(recorded, found, strict=True):
        assert record["sha256"] == kernel.sha256 == sha256(code).hexdigest()
        assert record["sm"] == 89 and record["spill_bytes"] == 0
        assert b".version 8.4" in code and b".target sm_89" in code
    assert KERNELS_NAME in manifest.files
    assert stages.index("compile kernels") < stages.index("trace"), "seconds before minutes"
    path = out / KERNELS_NAME
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    with pytest.raises(EngineError, match=r"file kernels\.zip was altered"):
        open_bundle(out)
    path.unlink()
    with pytest.raises(EngineError, match=r"file kernels\.zip is missing"):
        open_bundle(out)


def test_a_machine_without_triton_says_what_to_install(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(compile_module, "version", absent)
    out = tmp_path / "bundle"
    stages: list[str] = []
    with pytest.raises(
        BuildError, match=r"Triton, which compiles .* install 'edgellama\[kernels\]'"
    ):
        build_engine(
            plugin_profile(code="cubin"),
            make_checkpoint(),
            out,
            bundle=True,
            progress=lambda stage, done, total: stages.append(stage),
        )
    assert not stages and not out.exists()


def test_a_target_needs_its_table_and_no_other_has_it() -> None:
    made = small_profile("trt-plugin", precision_of("fp16"))
    with pytest.raises(ProfileError, match=r"table \[kernels\] is missing"):
        replace(made, kernels=None)
    native = small_profile("trt-native", precision_of("fp16"))
    with pytest.raises(ProfileError, match=r"table \[kernels\] is given"):
        replace(native, kernels=Kernels("cubin"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"code": "sass"}, r"kernels\.code is 'sass'"),
        ({"code": "ptx"}, r"kernels\.ptx_version is missing, kernels\.code is 'ptx'"),
        ({"code": "cubin", "ptx_version": "8.4"}, r"kernels\.ptx_version is given"),
        ({"code": "ptx", "ptx_version": "84"}, r"kernels\.ptx_version is '84'"),
    ],
)
def test_a_wrong_table_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ProfileError, match=words):
        Kernels(**values)
