"""The console script with the tiny network and data of `worker.py`, for processes on poor machines."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import worker

from jaxcnn import cli

if __name__ == "__main__":
    worker.install()
    sys.argv[0] = "jaxcnn"
    cli.run()
