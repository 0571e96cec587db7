"""Recipes of this repository in other libraries. Each file runs alone, with NumPy and its library only."""
