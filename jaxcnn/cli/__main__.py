"""Run the command line `jaxcnn` as `python -m jaxcnn.cli`."""

from jaxcnn.cli import run

run()
