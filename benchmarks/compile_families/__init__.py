"""The training step of each family's smallest and largest model, compiled for a TPU slice and a GPU."""
