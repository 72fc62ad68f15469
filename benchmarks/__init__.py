"""Measurements: how fast it is, and what it costs. Run as `python -m benchmarks.NAME`."""
