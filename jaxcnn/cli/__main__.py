"""Run the command `jaxcnn` by `python -m jaxcnn.cli`."""

from jaxcnn.cli import run

run()
