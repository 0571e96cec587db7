"""Flipped bits in memory and in computations: silent data corruption, made on purpose."""
