"""Portable ONNX to an engine for one target."""
