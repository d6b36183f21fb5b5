"""Benchmarks, each reported as ratios within one run: `python -m benchmarks.NAME`."""
