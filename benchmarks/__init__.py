"""Benchmarks: scripts that measure, each run by hand as `python -m benchmarks.NAME`."""
