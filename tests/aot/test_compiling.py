"""`compile_for`: real compilations in processes of their own, and the configurations that it refuses."""

import sys

import pytest
from small_models import installed

from jaxcnn.aot import Images, compile_all, compile_for, compiling, job, parse_target, targets
from jaxcnn.errors import UsageError
from jaxcnn.train import Config

needs_tpu_compiler = pytest.mark.skipif(not installed("v5e:2x4"), reason="libtpu is not installed")
needs_gpu_compiler = pytest.mark.skipif(not installed("h100"), reason="JAX's CUDA plugin is not installed")


def test_a_step_is_compiled_for_the_cpu():
    heard = []
    report = compile_for("cpu", Config(batch_size=8), show=lambda *stage: heard.append(stage))
    assert report.error is None
    assert report.memory.batch == 8 * (28 * 28 + 4)
    assert ("cpu", "compiling") in heard


@needs_tpu_compiler
def test_a_step_is_compiled_for_a_tpu_slice():
    report = compile_for("v5e:2x4", Config(batch_size=16, dtype="bfloat16"), per_device=True)
    assert (report.error, report.chips, report.batch_size) == (None, 8, 128)
    assert report.compiler.startswith("libtpu")
    assert report.fits
    assert report.memory.available == int(15.75 * 2**30)
    # Small arrays are mostly padding to tiles.
    assert 0.1 < report.padding < 0.95
    gradients = report.memory.parameters
    assert sum(entry["bytes"] for entry in report.transfers) == pytest.approx(gradients, rel=0.01)
    assert report.flops == pytest.approx(report.model_flops, rel=0.2)
    assert report.images_per_second == pytest.approx(128 / report.step_seconds)


@needs_tpu_compiler
def test_the_tpu_compiler_refuses_what_does_not_fit():
    config = Config(model="lenet5", batch_size=2**22)
    report = compile_for("v5e:1x1", config, images=Images((28, 28, 1), (28, 28), 10))
    assert report.error is None
    assert (report.fits, report.step_seconds) == (False, None)
    assert report.memory.total == report.memory.available + report.missing_bytes > 2**34


@needs_gpu_compiler
def test_a_step_is_compiled_for_gpus():
    report = compile_for("h100:8", Config(batch_size=16, dtype="bfloat16"), per_device=True)
    assert (report.error, report.chips, report.device) == (None, 8, "NVIDIA H100 80GB HBM3")
    assert report.xla_bytes_accessed is None
    assert report.bytes_accessed > report.memory.parameters
    gradients = report.memory.parameters
    assert sum(entry["bytes"] for entry in report.transfers) == pytest.approx(gradients, rel=0.01)
    assert report.bound in ("memory", "network")


def test_a_mistake_in_the_configuration_is_raised_here():
    with pytest.raises(UsageError, match="accumulate 3 does not divide"):
        compile_for("cpu", Config(batch_size=8, accumulate=3))
    with pytest.raises(UsageError, match="batch_size full needs the number of training images"):
        compile_for("cpu", Config(model="resnet50", batch_size="full"))
    with pytest.raises(UsageError, match="needs the memory size of target"):
        compile_for("cpu", Config(), auto_batch=True)


def test_a_process_that_fails_or_takes_too_long_is_an_error_in_the_report(monkeypatch):
    monkeypatch.setattr(job, "CHILD", (sys.executable, "-c", "import sys; sys.exit('no compiler')"))
    report = compile_for("cpu", Config(batch_size=8))
    assert report.error == "process ended with status 1: no compiler"
    assert (report.model, report.batch_size, report.fits) == ("lenet5", 8, None)
    monkeypatch.setattr(job, "CHILD", (sys.executable, "-c", "import time; time.sleep(60)"))
    assert compile_for("cpu", Config(batch_size=8), timeout=0.5).error == "took more than 0.5 s"


@pytest.mark.parametrize(
    ("name", "effort", "level"),
    [("v5e:2x4", "O1", "O1"), ("v5e:2x4", "default", None), ("h100", "O1", None), ("cpu", "O1", None)],
)
def test_only_tpu_programs_are_compiled_with_less_effort(name, effort, level):
    images = Images((28, 28, 1), (28, 28), 10)
    variables = job.Job.of(parse_target(name), Config(), images, effort).environment()
    assert variables.get("JAX_OPTIMIZATION_LEVEL") == level
    assert variables["JAX_PLATFORMS"] == "cpu"


def test_targets_are_checked_before_the_first_compilation(monkeypatch):
    monkeypatch.setattr(targets, "check_installed", targets.check_installed)
    monkeypatch.setattr(compiling, "check_installed", lambda target: (_ for _ in ()).throw(UsageError(target.name)))
    with pytest.raises(UsageError, match="cpu"):
        compile_all([parse_target("cpu")], Config())


@pytest.mark.parametrize(
    ("config", "batch_shape", "classes"),
    [
        (Config(), (28, 28, 1), 10),
        (Config(model="resnet50"), (224, 224, 3), 1000),
        (Config(model="resnet50", image_size=160), (160, 160, 3), 1000),
        (Config(model="resnet20_cifar"), (32, 32, 3), 10),
        (Config(model="resnet50", dataset="cifar100"), (32, 32, 3), 100),
        (Config(model="resnet50", dataset="imagenet2012", image_size=(192, 224)), (192, 224, 3), 1000),
    ],
)
def test_images_are_those_of_the_dataset_or_of_the_model(config, batch_shape, classes):
    images = compiling.images_of(config)
    assert (images.batch_shape, images.classes) == (batch_shape, classes)
    assert Images.from_dict(images.to_dict()) == images


def test_images_of_any_size_need_a_common_one():
    with pytest.raises(UsageError, match="Set a common size with --image-size"):
        compiling.images_of(Config(model="resnet50", dataset="imagenet2012"))
