"""Write GGUF files of a checkpoint: python llamacpp_convert.py CHECKPOINT SOURCES OUT TYPE...

SOURCES is the folder of llama.cpp's own converter; TYPE is Q4_0 or Q4_K_M. Each is written to
OUT/<TYPE>.gguf.
"""

from __future__ import annotations

import ctypes
import runpy
import sys
from pathlib import Path

import llama_cpp


def convert(checkpoint: str, sources: Path, out: Path) -> None:
    """Run the converter; it looks for a published tokenizer, which random weights do not have."""
    sys.path[:0] = [str(sources), str(sources / "gguf-py")]
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "llama-bpe"
    program = sources / "convert_hf_to_gguf.py"
    sys.argv = [str(program), checkpoint, "--outfile", str(out), "--outtype", "bf16"]
    runpy.run_path(str(program), run_name="__main__")


def quantize(source: Path, out: Path, kind: str) -> None:
    """Quantise as `llama-quantize SOURCE OUT KIND` does."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    state = llama_cpp.llama_model_quantize(
        str(source).encode(), str(out).encode(), ctypes.byref(params)
    )
    if state:
        raise RuntimeError(f"llama_model_quantize returned {state}")


def main(checkpoint: str, sources: str, out: str, *kinds: str) -> None:
    """Convert once, quantise to each type, and keep the quantised files only."""
    whole = Path(out) / "bf16.gguf"
    convert(checkpoint, Path(sources), whole)
    for kind in kinds:
        quantize(whole, Path(out) / f"{kind}.gguf", kind)
    whole.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
