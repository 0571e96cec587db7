"""A network exported as ONNX gives the run's own predictions in ONNX Runtime."""

import numpy as np
import pytest

from jaxcnn.export import export
from jaxcnn.train import load_run


def test_onnxruntime_predicts_the_same(lenet_run, images, tmp_path):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    trained = load_run(lenet_run.workdir)
    out = tmp_path / "network.onnx"
    export(trained, "onnx", out)
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    ours = np.asarray(trained.logits(images))
    (theirs,) = session.run(["logits"], {"images": images})
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.abs(ours).max())
    np.testing.assert_array_equal(theirs.argmax(1), ours.argmax(1))
