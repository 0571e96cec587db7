"""The version of the package jaxcnn. Other files read the version from this file."""

__version__ = "0.2.0"
"""The version of jaxcnn, such as "0.2.0"."""
