"""Fast forms of the equations that layers state, behind one door."""

from jaxcnn.kernels._platform import computed_once as materialize

__all__ = ["materialize"]
