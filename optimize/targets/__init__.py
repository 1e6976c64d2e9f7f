"""One file per target: its passes and its builder."""
