"""One training run from start to end: the training loop, the run directory, checkpoints, signals and metrics files."""
