"""Experiments that test claims about convolutional networks on real images: `python -m experiments all`."""
