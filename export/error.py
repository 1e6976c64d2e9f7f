"""What can go wrong between a model argument and a portable graph."""

from __future__ import annotations


class ExportError(ValueError):
    """A checkpoint that cannot be exported, or an export that cannot be written."""
