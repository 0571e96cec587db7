"""What a resumed run says before it goes on."""

from jaxcnn import kernels
from jaxcnn.kernels import _selection
from jaxcnn.train.runtime import resume
from jaxcnn.train.runtime.checkpoint import Checkpoints


def test_other_kernels_are_reported_in_one_line(monkeypatch):
    monkeypatch.setattr(kernels, "in_use", lambda: "xla")
    note = resume._note_on_kernels("native")
    assert note.startswith("the steps so far were made with native kernels, but this process uses xla kernels")
    assert note.endswith("Set JAXCNN_KERNELS=native to use the same kernels for the whole run.")
    assert resume._note_on_kernels("xla") is resume._note_on_kernels(None) is None


def test_the_result_and_the_checkpoint_say_which_kernels_ran(lenet_run):
    assert lenet_run.values["kernels"] == kernels.in_use()
    with kernels.use("xla"):
        assert kernels.in_use() == "xla"
    with Checkpoints(lenet_run.workdir / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints._description(60)["meta"]["kernels"] == lenet_run.values["kernels"]


def test_accelerators_run_the_kernels_of_xla(monkeypatch):
    monkeypatch.setattr(_selection, "on_cpu", lambda: False)
    assert kernels.in_use() == "xla"
