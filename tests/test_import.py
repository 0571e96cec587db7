"""`import jaxcnn` is light: a module that only some commands need is imported by them."""

import subprocess
import sys

HEAVY = ("tensorflow", "tensorflow_datasets", "torch", "matplotlib", "orbax.checkpoint", "tensorboardX", "tyro")


def test_import_loads_nothing_heavy():
    # In a fresh interpreter: this one has imported them already.
    code = f"import sys, jaxcnn; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


TRAINS_WITHOUT = """
import sys

for name in ("tensorflow_datasets", "array_record", "grain", "tyro", "simplejpeg", "tensorboardX"):
    sys.modules[name] = None  # importing it raises ImportError

import numpy as np

import jaxcnn.measure
from jaxcnn.data import from_arrays
from jaxcnn.train import Config, fit, fit_many

images, labels = np.zeros((40, 28, 28, 1), np.uint8), np.arange(40, dtype=np.int32) % 10
data = from_arrays(train=(images, labels), test=(images, labels))
config = Config(steps=1, batch_size=8, progress=False)
fit_many(config, seeds=range(2), data=data, workdir=sys.argv[1])
"""


def test_arrays_are_trained_on_without_what_only_datasets_and_the_command_line_need(tmp_path):
    # What machines lent for an hour have: JAX, Flax, Optax, Orbax, matplotlib and rich.
    command = [sys.executable, "-c", TRAINS_WITHOUT, str(tmp_path / "sweep")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not list(tmp_path.rglob("events.out.tfevents*"))
    assert len(list(tmp_path.rglob("result.json"))) == 2


def test_public_names_are_there():
    import jaxcnn

    for name in jaxcnn.__all__:
        assert getattr(jaxcnn, name) is not None
