"""What is installed for each other system: the newest releases that work beside each other."""

from __future__ import annotations

from pathlib import Path

from edgellama.benchmark.peer_environment import Packages

# The release that this project itself is tested with.
_TORCH = "torch==2.13.0"

OPTIMUM_ONNX = Packages("optimum-onnx", (_TORCH, "optimum-onnx[onnxruntime]==0.1.0"))
GENAI = Packages(
    "onnxruntime-genai",
    (_TORCH, "onnxruntime-genai==0.18.0", "transformers>=5,<5.15", "onnx", "onnx-ir"),
)
OPENVINO = Packages(
    "openvino-genai",
    (_TORCH, "openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "nncf", "transformers==5.5.4"),
    # It is installed for nothing, and of another build than torch it breaks transformers' import.
    removed=("torchvision",),
)


def _llama_cmake() -> str:
    """Return how llama.cpp is compiled: for this machine, without AMX where there is AMX."""
    language_only = "-DLLAVA_BUILD=OFF"  # images are half of the time
    info = Path("/proc/cpuinfo")
    if not info.is_file() or "amx_int8" not in info.read_text(encoding="utf-8"):
        return f"{language_only} -DGGML_NATIVE=ON"
    # Its AMX path ended the process on such a machine; `native` would bring it in.
    kept = ("AVX", "AVX2", "BMI2", "FMA", "F16C", "AVX512", "AVX512_VNNI", "AVX512_VBMI")
    return " ".join([language_only, "-DGGML_NATIVE=OFF", *(f"-DGGML_{name}=ON" for name in kept)])


# The converter in its source distribution imports the others.
LLAMA_CPP_SOURCE = "llama-cpp-python==0.3.36"
LLAMA_CPP = Packages(
    "llama-cpp-python",
    (
        LLAMA_CPP_SOURCE,
        "--no-binary=llama-cpp-python",
        *(_TORCH, "transformers>=5,<5.15", "sentencepiece"),
    ),
    variables={"CMAKE_ARGS": _llama_cmake()},
)
