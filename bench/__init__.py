"""Benchmarks: `make bench` prints a table of ratios, each taken within one run, and writes it to bench/RESULTS.md."""
