"""Fast inference: a trained network as a function of images, with its weights folded into the program."""

from jaxcnn.freezing.frozen import Frozen, freeze

__all__ = ["Frozen", "freeze"]
