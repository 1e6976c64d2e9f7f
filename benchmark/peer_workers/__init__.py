"""Run one system each, in the environment of that system: no file here is imported by another."""
