"""The names of the files of an exported model."""

from __future__ import annotations

GRAPH_NAME = "model.onnx"
DATA_NAME = "model.onnx.data"
BATCH_GRAPH_NAME = "model.batch.onnx"  # the same model with the weights of large steps
# Files a later stage needs beside the graph: text, chat and stop behaviour.
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
