"""Benchmarks: `python -m benchmarks.<name>`; rows are appended to benchmarks/results/<name>.csv."""
