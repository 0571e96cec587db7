"""Silent data corruption: find steps that a device has computed or stored wrong, and undo them."""

from jaxcnn.train.runtime.verification.calls import Calls
from jaxcnn.train.runtime.verification.verifier import CorruptDeviceError, Mismatch, Verifier, make_verifier

__all__ = ["Calls", "CorruptDeviceError", "Mismatch", "Verifier", "make_verifier"]
