"""Fixtures shared by all tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Before anything imports a kernel: they run in Triton's interpreter here. What compiles kernels
# does so in processes of its own.
os.environ["TRITON_INTERPRET"] = "1"
ROOT = Path(__file__).resolve().parent.parent
# A byte a token, and two special tokens behind them.
BOS, EOS, VOCAB = 256, 257, 258
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Refuse cases out of a set: their order changes with the process, and two processes of
    pytest-xdist must collect the same tests in the same order."""
    for marker in metafunc.definition.iter_markers("parametrize"):
        if any(isinstance(values, (set, frozenset)) for values in marker.args):
            name = metafunc.definition.nodeid
            raise pytest.UsageError(f"{name}: the cases of parametrize are a set; give a list")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real checkpoints, tokenizer and texts beside the repository; skips where they are absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return folder


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a small random Llama in the hub's format; keywords override its configuration."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def make(*, shard_size: str = "1GB", **overrides: Any) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        settings: dict[str, Any] = {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "initializer_range": 0.2,  # wide, so that the most likely token stands out
            "tie_word_embeddings": True,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
        }
        torch.manual_seed(7)
        config = transformers.LlamaConfig(**{**settings, **overrides})
        model = transformers.LlamaForCausalLM(config)
        for name, parameter in model.named_parameters():
            if "norm" in name:  # ones would hide a norm whose weight is lost
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        model.save_pretrained(folder, max_shard_size=shard_size)
        _write_tokenizer(folder)
        return folder

    return make
