"""Checkpoint to portable ONNX."""
