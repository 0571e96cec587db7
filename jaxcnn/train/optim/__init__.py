"""Compute parameter updates from gradients: optimizers, schedules, freezing, loss scaling and moving averages."""
