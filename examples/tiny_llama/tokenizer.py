"""Train the byte-level BPE tokenizer with the special tokens and chat format of Llama 3."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from edgellama.examples.tiny_llama.document import Document
from edgellama.examples.tiny_llama.shape import CONTEXT, VOCAB

# The tokenizer is trained on this many documents from the start of the corpus.
DOCUMENTS = 20_000

# The Llama 3 pattern, but digits are always split one by one so that sums can be learned.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The 256 special tokens of Llama 3.1 in their own order.
SPECIALS: tuple[str, ...] = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(3, 248)),
)

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + (message['content'] | trim) + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{%- endif %}"
)


def render(document: Document) -> str:
    """Write a document with its special tokens, as the chat template would."""
    if not document.messages:
        return f"<|begin_of_text|>{document.text}<|end_of_text|>"
    turns = (
        f"<|start_header_id|>{message.role}<|end_header_id|>\n\n{message.content.strip()}<|eot_id|>"
        for message in document.messages
    )
    return "<|begin_of_text|>" + "".join(turns)


def _texts(documents: Iterable[Document]) -> Iterable[str]:
    for document in documents:
        yield document.text
        for message in document.messages:
            # The role and the blank line belong to the format, so they must become one token.
            yield f"{message.role}\n\n{message.content}"


def train(documents: Iterable[Document]) -> Tokenizer:
    """Train a tokenizer of VOCAB entries: text first, then the special tokens."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCAB - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(documents), trainer)
    if tokenizer.get_vocab_size() != VOCAB - len(SPECIALS):
        raise ValueError(
            f"vocabulary has {tokenizer.get_vocab_size()} entries, not {VOCAB - len(SPECIALS)}:"
            " train on more documents"
        )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    bos = SPECIALS[0]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos} $A",
                pair=f"{bos} $A {bos}:1 $B:1",
                special_tokens=[(bos, tokenizer.token_to_id(bos))],
            ),
        ]
    )
    return tokenizer


def _settings(tokenizer: Tokenizer) -> dict[str, Any]:
    added = {
        str(tokenizer.token_to_id(name)): {
            "content": name,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for name in SPECIALS
    }
    return {
        "added_tokens_decoder": added,
        "bos_token": "<|begin_of_text|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|eot_id|>",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": CONTEXT,
        "pad_token": "<|finetune_right_pad_id|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json into a folder."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = _settings(tokenizer)
    names = {key: settings[key] for key in ("bos_token", "eos_token", "pad_token")}
    for file, content in (("tokenizer_config.json", settings), ("special_tokens_map.json", names)):
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
