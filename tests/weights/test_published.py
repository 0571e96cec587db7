"""Ids of published weights stand for a file, an architecture and a preprocessing."""

import hashlib
import io
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from jaxcnn import weights
from jaxcnn.cli import main
from jaxcnn.errors import UsageError
from jaxcnn.models import list_models
from jaxcnn.weights import _published, list_published, published, safetensors
from jaxcnn.weights.names import TORCHVISION

V2 = "torchvision:ResNet50_Weights.IMAGENET1K_V2"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Return the folder in which torch keeps its files, empty, and let no test use the network."""

    def refuse(url, timeout):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path / "hub" / "checkpoints"


def test_each_id_is_of_a_model_whose_names_are_known():
    unknown = []
    for name in list_published():
        known = published(name)
        assert bool(known.file) != bool(known.repository)
        assert name in list_published(model=known.model)
        if known.model not in list_models() or known.model not in TORCHVISION:
            unknown.append(name)
    assert unknown == []
    assert len(list_published("timm:*")) > 150


def test_the_two_weights_of_a_model_differ_in_their_preprocessing():
    first, second = (published(f"torchvision:ResNet50_Weights.IMAGENET1K_V{version}") for version in (1, 2))
    assert (first.preprocessing.resize, second.preprocessing.resize) == (256, 232)
    assert (first.accuracy, second.accuracy) == (76.13, 80.858)
    assert published("timm:resnet50.a1_in1k").preprocessing.interpolation == "bicubic"


def test_an_unknown_id_is_one_line_with_the_closest():
    with pytest.raises(UsageError, match=r"timm:resnet50\.a1_in1k"):
        weights.local_file("timm:resnet50.a1_in1")


def test_without_a_network_the_error_says_which_file_to_put_where(folder):
    with pytest.raises(UsageError) as error:
        weights.local_file(V2)
    assert "https://download.pytorch.org/models/resnet50-11ad3fa6.pth" in str(error.value)
    assert str(folder / "resnet50-11ad3fa6.pth") in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(folder.iterdir())


def test_a_local_copy_is_used(folder):
    folder.mkdir(parents=True)
    (folder / "resnet50-11ad3fa6.pth").write_bytes(b"x")
    assert weights.local_file(V2) == folder / "resnet50-11ad3fa6.pth"


@pytest.mark.parametrize("right", [True, False])
def test_a_download_is_kept_only_if_its_digest_is_that_of_its_name(right, tmp_path, monkeypatch):
    content = b"weights" * 1000
    digest = hashlib.sha256(content).hexdigest()[:8] if right else "00000000"
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(content))
    path = tmp_path / "new" / f"net-{digest}.pth"
    if right:
        _published._download("https://host/file", path)
        assert path.read_bytes() == content
    else:
        with pytest.raises(OSError, match="SHA-256 that starts with 00000000"):
            _published._download("https://host/file", path)
    assert len(list(path.parent.iterdir())) == right


def test_convert_takes_an_id_and_a_file(tmp_path, capsys):
    made = tmp_path / "densenet.safetensors"
    assert (
        main(["convert", str(tmp_path / "none.pth"), "--model", "torchvision:DenseNet121_Weights.IMAGENET1K_V2"]) == 2
    )
    assert "DenseNet121_Weights.IMAGENET1K_V1" in capsys.readouterr().err
    assert not made.exists()


def test_convert_records_the_preprocessing_of_the_id(folder, tmp_path):
    name, model = "torchvision:SqueezeNet1_1_Weights.IMAGENET1K_V1", "squeezenet1_1"
    variables = weights_of(model)
    folder.mkdir(parents=True)
    torch_names = tmp_path / "torch.safetensors"
    weights.save(torch_names, model, variables, to="torchvision")
    shutil.copy(torch_names, folder / published(name).file)
    assert main(["convert", "--model", name, "--out", str(tmp_path / "out.safetensors")]) == 0
    assert weights.recorded(tmp_path / "out.safetensors") == published(name).preprocessing
    assert safetensors.metadata(tmp_path / "out.safetensors")["model"] == model


def weights_of(model: str):
    import jax
    import jax.numpy as jnp

    from jaxcnn.models import create_model

    made = create_model(model)
    shapes = jax.eval_shape(
        lambda key, x: made.init(key, x, train=False), jax.random.key(0), jnp.zeros((1, 224, 224, 3))
    )
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
