"""Latency and load measurements of an engine."""
