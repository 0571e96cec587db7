"""Predicted and compiled memory of training steps that recompute blocks (`remat=8GB`)."""
