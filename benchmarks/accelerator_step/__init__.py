"""The cost of a training step on accelerators that are not there, from programs compiled for them."""
