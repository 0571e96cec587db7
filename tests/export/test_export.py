"""An exported network gives the run's own predictions where there is no jaxcnn."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jaxcnn.cli import main
from jaxcnn.data import open_dataset
from jaxcnn.train import Config, fit, load_run

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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return fit(Config(steps=40, batch_size=64, progress=False, workdir=str(folder)))


@pytest.fixture(scope="module")
def images():
    return open_dataset("fashion_mnist_mini").read("test")[0][:100]


def test_a_process_with_jax_and_numpy_alone_predicts_the_same(run, images, tmp_path, capsys):
    pytest.importorskip("flatbuffers")
    out = tmp_path / "network.stablehlo"
    assert main(["export", "--workdir", str(run.workdir), "--out", str(out)]) == 0
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "loader.py").write_text(LOADER)
    command = [sys.executable, "loader.py", str(out), "images.npy", "logits.npy"]
    # In a folder of its own and without the paths of this process, so that nothing of jaxcnn can be imported by chance.
    subprocess.run(command, cwd=tmp_path, check=True, env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"})
    trained = load_run(run.workdir)
    ours, theirs = np.asarray(trained.logits(images)), np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.abs(ours).max())
    np.testing.assert_array_equal(theirs.argmax(1), ours.argmax(1))
    beside = json.loads((tmp_path / "network.stablehlo.json").read_text())
    assert tuple(beside["class_names"]) == trained.preprocessing.class_names
    assert beside["image_shape"] == [28, 28, 1]


def test_onnxruntime_predicts_the_same(run, images, tmp_path):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "network.onnx"
    assert main(["export", "--workdir", str(run.workdir), "--format", "onnx", "--out", str(out)]) == 0
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    ours = np.asarray(load_run(run.workdir).logits(images))
    (theirs,) = session.run(["logits"], {"images": images})
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.abs(ours).max())
    np.testing.assert_array_equal(theirs.argmax(1), ours.argmax(1))


@pytest.mark.parametrize(("kind", "package"), [("stablehlo", "flatbuffers"), ("onnx", "jax2onnx")])
def test_a_package_that_is_missing_is_named_with_its_extra(kind, package, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    out = tmp_path / "network"
    assert main(["export", "--workdir", str(run.workdir), "--format", kind, "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert package in err
    assert "pip install 'jaxcnn[" in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_line(run, tmp_path, capsys):
    for out, says in ((tmp_path, "it is a folder"), (tmp_path / "none" / "x", "does not exist")):
        assert main(["export", "--workdir", str(run.workdir), "--out", str(out)]) == 2
        assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
