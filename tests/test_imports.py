"""What each folder may import; the device subset needs no torch, and the core no library at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STANDARD = set(sys.stdlib_module_names) | {"edgellama", "tomli"}
COMPILER = {"onnx", "onnx_ir", "onnxscript", "ml_dtypes", "numpy", "torch", "safetensors"}
# Folder -> what it may import besides the standard library and edgellama itself.
MAY_IMPORT = {
    "profiles": set(),
    "runtime": {
        "numpy",
        "onnxruntime",
        "tokenizers",
        "jinja2",
        "llguidance",
        "tensorrt",
        "cuda",
    },
    "grpc_service": {
        "grpc",
        "google",
        "grpc_health",
        "grpc_reflection",
        "grpc_status",
        "aiohttp",
        "typing_extensions",  # for the type checker only
    },
    # Beside numpy: the kernels on a GPU, and what they are compared with.
    "benchmark": {"numpy", "torch", "onnxruntime", "onnx_ir", "matplotlib", "jinja2", "grpc"},
    "cli": {"click", "rich", "google", "onnxruntime"},
    "export": COMPILER | {"transformers", "optimum", "huggingface_hub", "tokenizers"},
    "calibration": COMPILER | {"modelopt", "transformers"},
    "optimize": COMPILER | {"onnxruntime", "tensorrt", "tensorrt_rtx", "triton"},
    "examples": {"torch", "safetensors", "tokenizers", "transformers", "numpy", "click", "rich"},
}
# Programs that run in the environments of other systems; nothing of the project imports them.
WORKERS = "benchmark/peer_workers"
WORKERS_MAY_IMPORT = {
    "conversion",  # of llama.cpp's sources
    "llama_cpp",
    "onnxruntime_genai",
    "openvino",
    "openvino_genai",
    "transformers",
}
# Folder -> the folders of edgellama it may import besides itself; an arrow of the architecture.
MAY_USE = {
    "profiles": set(),
    "runtime": {"profiles"},
    "grpc_service": {"profiles", "runtime"},
    # The checks of a GPU build what they measure.
    "benchmark": {"profiles", "runtime", "grpc_service", "export", "optimize"},
    "export": {"profiles", "examples"},
    "calibration": {"profiles", "export", "runtime"},
    "optimize": {"profiles", "export", "calibration", "runtime"},
    "examples": {"profiles", "runtime", "grpc_service", "export"},
    "cli": {
        "profiles",
        "runtime",
        "grpc_service",
        "benchmark",
        "export",
        "calibration",
        "optimize",
        "examples",
    },
}
# Only the adapter of a folder touches these libraries.
ONE_FILE_A_FOLDER = ("onnxruntime", "tensorrt", "tensorrt_rtx", "cuda", "optimum", "modelopt")
CORE = ("sequence", "slots", "scheduler", "step", "request")


def sources(folder: str) -> list[Path]:
    return sorted(p for p in (ROOT / folder).rglob("*.py") if "_pb2" not in p.name)


def all_sources() -> list[Path]:
    return [path for folder in MAY_IMPORT for path in sources(folder)]


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            yield node.module or ""


def is_worker(path: Path) -> bool:
    return path.relative_to(ROOT).as_posix().startswith(f"{WORKERS}/")


def test_the_workers_are_imported_by_nothing() -> None:
    """Not even by each other: an environment has one system only."""
    assert sources(WORKERS)
    for path in all_sources():
        for name in imported(path):
            assert "peer_workers" not in name, f"{path.relative_to(ROOT)} imports {name}"


def test_the_table_names_every_folder() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(MAY_IMPORT) == set(MAY_USE)


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_a_folder_imports_only_its_libraries(folder: str) -> None:
    for path in sources(folder):
        allowed = STANDARD | MAY_IMPORT[folder]
        if is_worker(path):
            allowed = allowed | WORKERS_MAY_IMPORT
        for name in imported(path):
            assert name.split(".")[0] in allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("folder", sorted(MAY_USE))
def test_a_folder_uses_only_the_folders_before_it(folder: str) -> None:
    allowed = MAY_USE[folder] | {folder}
    for path in sources(folder):
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "edgellama":
                assert parts[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("library", ONE_FILE_A_FOLDER)
def test_an_adapter_is_one_file(library: str) -> None:
    for folder in MAY_IMPORT:
        users = {
            path.relative_to(ROOT).as_posix()
            for path in sources(folder)
            for name in imported(path)
            if name.split(".")[0] == library
        }
        assert len(users) <= 1, f"{library} is imported in {sorted(users)}; one adapter a folder"


def test_an_init_file_is_a_docstring() -> None:
    for path in all_sources():
        if path.name == "__init__.py":
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert len(body) == 1 and ast.get_docstring(ast.Module(body, [])), f"{path}"


def test_no_folder_is_imported_by_its_bare_name() -> None:
    for path in all_sources():
        for name in imported(path):
            assert name.split(".")[0] not in MAY_IMPORT, f"{path.relative_to(ROOT)}: {name}"


@pytest.mark.parametrize("module", CORE)
def test_the_core_needs_no_library(module: str) -> None:
    """Import the module where numpy, onnxruntime and the rest cannot be found."""
    blocked = ("numpy", "torch", "onnxruntime", "tokenizers", "jinja2", "grpc", "tensorrt", "cuda")
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"  # None makes `import` raise
        f"import edgellama.runtime.{module}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
