"""Fixtures shared by all tests."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Before anything imports a kernel: they run in Triton's interpreter here. What compiles kernels
# does so in processes of its own.
os.environ["TRITON_INTERPRET"] = "1"
# Before anything imports torch: its threads wait asleep. Awake, those of one process take the cores
# from those of another, and of all that run beside this one.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # reciting_model is for the tests of several folders
# A byte a token, and two special tokens behind them.
BOS, EOS, VOCAB = 256, 257, 258
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

# How Llama 3.1 is told of tools, by Meta's description of its prompts; one call a turn, as there.
TOOL_TEMPLATE = """\
{%- if not tools_in_user_message is defined %}{% set tools_in_user_message = true %}{% endif %}
{%- if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}
{%- macro turn(role, text, end='<|eot_id|>') %}
{{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + text + end }}
{%- endmacro %}
{%- macro offer() %}
{{- 'Answer with a call as JSON, {"name": …, "parameters": …}.\n\n' }}
{%- for tool in tools %}{{ tool | tojson(indent=4) + '\n\n' }}{% endfor %}
{%- endmacro %}
{{- bos_token }}
{%- set head = namespace(text='') %}
{%- if builtin_tools is defined or tools is not none %}
{%- set head.text = 'Environment: ipython\n' %}
{%- endif %}
{%- if builtin_tools is defined %}
{%- set head.text = head.text + 'Tools: ' + builtin_tools | join(', ') + '\n\n' %}
{%- endif %}
{%- set head.text = head.text + 'Today Date: ' + date_string + '\n\n' %}
{%- if tools is not none and not tools_in_user_message %}
{%- set head.text = head.text + offer() %}
{%- endif %}
{%- if messages[0].role == 'system' %}
{%- set head.text = head.text + messages[0].content | trim %}
{%- set messages = messages[1:] %}
{%- endif %}
{{- turn('system', head.text) }}
{%- for message in messages %}
{%- if loop.first and tools is not none and tools_in_user_message %}
{{- turn('user', offer() + message.content | trim) }}
{%- elif 'tool_calls' in message %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}
{%- set call = message.tool_calls[0].function %}
{%- if builtin_tools is defined and call.name in builtin_tools %}
{%- set body = namespace(text='') %}
{%- for name, value in call.arguments | items %}
{%- set body.text = body.text + (', ' if body.text else '') + name + '="' + value + '"' %}
{%- endfor %}
{{- turn('assistant', '<|python_tag|>' + call.name + '.call(' + body.text + ')', '<|eom_id|>') }}
{%- else %}
{%- set text = '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' %}
{{- turn('assistant', text) }}
{%- endif %}
{%- elif message.role == 'tool' %}
{{- turn('ipython', message.content | tojson) }}
{%- else %}
{{- turn(message.role, message.content | trim) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""


@pytest.fixture(scope="session")
def tool_template() -> str:
    """A chat template that knows tools."""
    return TOOL_TEMPLATE


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
