"""Experiments that show, on real images, what is said about convolutional networks: `python -m experiments all`."""
