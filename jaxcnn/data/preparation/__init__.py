"""Prepare datasets from their original files."""
