"""The version of this package, kept here alone."""

__version__ = "0.2.0"
"""The version, such as "0.2.0"."""
