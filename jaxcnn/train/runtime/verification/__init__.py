"""Detect silent data corruption: find training steps that a device has computed wrong, and repeat these steps."""

from jaxcnn.train.runtime.verification.calls import Calls
from jaxcnn.train.runtime.verification.verifier import CorruptDeviceError, Mismatch, Verifier, make_verifier

__all__ = ["Calls", "CorruptDeviceError", "Mismatch", "Verifier", "make_verifier"]
