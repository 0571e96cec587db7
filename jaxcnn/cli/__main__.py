"""`python -m jaxcnn.cli` is the command `jaxcnn`."""

from jaxcnn.cli import run

run()
