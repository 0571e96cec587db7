"""`import jaxcnn` is light: a module that only some commands need is imported by them."""

import subprocess
import sys

HEAVY = ("tensorflow", "tensorflow_datasets", "torch", "matplotlib", "orbax.checkpoint", "tensorboardX", "tyro")


def test_import_loads_nothing_heavy():
    # In a fresh interpreter: this one has imported them already.
    code = f"import sys, jaxcnn; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_public_names_are_there():
    import jaxcnn

    for name in jaxcnn.__all__:
        assert getattr(jaxcnn, name) is not None
