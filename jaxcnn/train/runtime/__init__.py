"""One run from start to end: the loop, its folder, checkpoints, signals and records."""
