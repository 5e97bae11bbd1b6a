"""The parts of `benchmarks/gpu.py`, one module each, and helpers that they share."""
