"""Fast inference: turn a trained network into one function of images that contains the weights."""

from jaxcnn.freezing.frozen import Frozen, freeze

__all__ = ["Frozen", "freeze"]
