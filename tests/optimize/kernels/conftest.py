"""What these tests share can be imported by its name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

TYPINGS = Path(__file__).resolve().parents[3] / "typings"
# The first version that the plugins are for, which a JetPack has, and the newest.
BINDINGS = ("10.16.1.11", "11.4.0.106")


@pytest.fixture(scope="session", params=BINDINGS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `import tensorrt` works from; skips where the wheel or gcc cannot be had.

    The wheel of the bindings is NVIDIA's; the libraries under it are empty.
    """
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to compile empty libraries with")
    wheel = f"tensorrt-cu13-bindings=={request.param}"
    folder = tmp_path_factory.mktemp("tensorrt")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    done = subprocess.run(
        [*command, str(folder), wheel], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no wheel of {wheel}: {done.stderr[-200:]}")
    sys.path.insert(0, str(TYPINGS))
    try:
        from null_libraries import write_null_libraries
    finally:
        sys.path.pop(0)
    bindings = folder / "tensorrt_bindings"
    write_null_libraries(bindings / "tensorrt.so", folder / "tensorrt_libs")
    # What the package `tensorrt`, which no index has, does.
    (folder / "tensorrt" / "plugin").mkdir(parents=True)
    (folder / "tensorrt" / "__init__.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )
    (folder / "tensorrt" / "plugin" / "__init__.py").write_text(
        "from tensorrt_bindings.plugin import *\nfrom tensorrt_bindings.plugin import __all__\n"
    )
    return folder
