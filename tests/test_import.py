"""`import jaxcnn` is light: what only some commands need is loaded by them."""

import subprocess
import sys

HEAVY = ("tensorflow", "tensorflow_datasets", "torch", "matplotlib", "orbax.checkpoint", "tensorboardX", "tyro")


def test_import_loads_nothing_heavy():
    # A fresh interpreter: this one has loaded much already.
    code = f"import sys, jaxcnn; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_public_names_are_there():
    import jaxcnn

    for name in jaxcnn.__all__:
        assert getattr(jaxcnn, name) is not None
