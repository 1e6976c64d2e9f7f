"""Tokens to clients over gRPC."""
