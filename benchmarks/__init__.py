"""Benchmarks: `make bench` prints speed and size beside git-lfs and plain Git; docs/benchmarks.md holds the latest table."""
