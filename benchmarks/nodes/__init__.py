"""Machines on one machine: network namespaces as nodes, forked workers in them, and what the benchmarks measure on these."""
