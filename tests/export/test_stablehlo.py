"""A network exported as StableHLO gives the run's own predictions where jaxcnn is not installed."""

import json
import subprocess
import sys

import numpy as np

from jaxcnn.export import export
from jaxcnn.train import load_run

LOADER = """
import sys
import jax.export
import numpy as np

network = jax.export.deserialize(open(sys.argv[1], "rb").read())
logits = np.asarray(network.call(np.load(sys.argv[2])))
np.save(sys.argv[3], logits)
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"jaxcnn", "flax", "optax", "orbax"}, loaded
"""


def test_a_process_with_jax_and_numpy_alone_predicts_the_same(lenet_run, images, tmp_path):
    trained = load_run(lenet_run.workdir)
    out = tmp_path / "network.stablehlo"
    description = export(trained, "stablehlo", out)
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "loader.py").write_text(LOADER)
    command = [sys.executable, "loader.py", str(out), "images.npy", "logits.npy"]
    # In a directory of its own and without the paths of this process, so that jaxcnn cannot be imported by chance.
    subprocess.run(command, cwd=tmp_path, check=True, env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"})
    ours, theirs = np.asarray(trained.logits(images)), np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.abs(ours).max())
    np.testing.assert_array_equal(theirs.argmax(1), ours.argmax(1))
    assert description == tmp_path / "network.stablehlo.json"
    described = json.loads(description.read_text())
    assert tuple(described["class_names"]) == trained.preprocessing.class_names
    assert described["image_shape"] == [28, 28, 1]
