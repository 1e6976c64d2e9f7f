"""The `edgellama` command: one file a verb."""
