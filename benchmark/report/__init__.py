"""One run of the benchmarks as a page and its plots."""
