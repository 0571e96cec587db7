"""Cost of verification in the time of a step: `python -m benchmarks.verification`."""
