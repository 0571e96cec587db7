"""Weights carry the preprocessing of the images that they were trained on."""

import dataclasses
import json

import numpy as np
import pytest

from jaxcnn import weights
from jaxcnn.errors import UsageError
from jaxcnn.models import create_model
from jaxcnn.weights import PUBLISHED, Preprocessing, recorded, safetensors
from jaxcnn.weights.conversion import template
from jaxcnn.weights.names import TORCHVISION
from jaxcnn.weights.preprocessing import ENTRY, IMAGENET

OURS = Preprocessing((0.3,), (0.4,), (28, 28), crop_fraction=0.9, interpolation="bicubic", background="black")


def random_variables(model, shape):
    generator = np.random.default_rng(0)
    return weights.conversion.unflatten_dict(
        {name: generator.normal(size=x.shape).astype(x.dtype) for name, x in template(model, shape).items()}, sep="/"
    )


@pytest.fixture(scope="module")
def lenet():
    return random_variables(create_model("lenet5"), (28, 28, 1))


def test_every_model_with_published_weights_has_a_preprocessing():
    assert set(PUBLISHED) == set(TORCHVISION)
    own = {name for name, known in PUBLISHED.items() if (known.mean, known.std) != (IMAGENET.mean, IMAGENET.std)}
    assert own == {"googlenet_bn", "inception_v3", "efficientnet_v2_l"} & set(PUBLISHED)
    for known in PUBLISHED.values():
        # A crop of an image whose shorter side is `resize`.
        assert known.crop_fraction * known.resize == pytest.approx(known.image_size[0])
        assert Preprocessing.from_text(known.to_text()) == known
    assert PUBLISHED["resnet50"] == IMAGENET


def test_googlenets_preprocessing_is_what_torchvision_computes_inside_of_the_model():
    """`GoogLeNet._transform_input` of torchvision, for an image that is normalized by ImageNet's statistics."""
    pixels = np.random.default_rng(0).uniform(size=(5, 5, 3))
    normalized = (pixels - IMAGENET.mean) / IMAGENET.std
    transformed = normalized * (np.array([0.229, 0.224, 0.225]) / 0.5) + (np.array([0.485, 0.456, 0.406]) - 0.5) / 0.5
    googlenet = PUBLISHED["googlenet_bn"]
    np.testing.assert_allclose((pixels - googlenet.mean) / googlenet.std, transformed, atol=1e-12)


def test_published_names_select_the_published_preprocessing(tmp_path):
    model = create_model("resnet18", 3, width=8)
    variables = random_variables(model, (32, 32, 3))
    for to, expected in (("torchvision", IMAGENET), ("ours", None)):
        path = tmp_path / f"{to}.safetensors"
        weights.save(path, "resnet18", variables, to=to, model=model)
        assert weights.convert("resnet18", path, width=8).preprocessing == expected
    assert recorded(tmp_path / "resnet50-0676ba61.pth") == IMAGENET
    assert recorded(tmp_path / "resnet50-11ad3fa6.pth").resize == 232


def test_a_file_records_the_preprocessing(lenet, tmp_path):
    path = tmp_path / "lenet.safetensors"
    weights.save(path, "lenet5", lenet, image_shape=(28, 28, 1), preprocessing=OURS)
    assert weights.convert("lenet5", path).preprocessing == OURS
    weights.save(path, "lenet5", lenet, image_shape=(28, 28, 1))
    assert weights.convert("lenet5", path).preprocessing is None


def test_timms_description_of_a_file_counts(tmp_path):
    description = {
        "architecture": "resnet50",
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "crop_pct": 0.95,
            "crop_mode": "center",
            "interpolation": "bicubic",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
    }
    described = tmp_path / "config.json"
    described.write_text(json.dumps(description))
    path = tmp_path / "model.safetensors"
    safetensors.write(path, {}, {"format": "pt"})
    assert recorded(path) == dataclasses.replace(
        IMAGENET, resize="shorter", crop_fraction=0.95, interpolation="bicubic"
    )
    safetensors.write(path, {}, {ENTRY: OURS.to_text()})
    assert recorded(path) == OURS
    for other in ("", "[" * 200_000, "[]", '{"pretrained_cfg": 1}', '{"model": "of another program"}'):
        described.write_text(other)
        assert recorded(tmp_path / "model.pth") is None
    for change in ({"mean": None}, {"input_size": 224}, {"input_size": [3]}, {"interpolation": ["nearest"]}):
        described.write_text(json.dumps({"pretrained_cfg": {**description["pretrained_cfg"], **change}}))
        with pytest.raises(UsageError, match="invalid preprocessing described in"):
            recorded(tmp_path / "model.pth")


def test_a_damaged_record_is_one_line(tmp_path):
    path = tmp_path / "x.safetensors"
    good = dataclasses.asdict(OURS)
    wrong = [{"mean": 0.5}, {"mean": [0.5, 0.5]}, {"std": [0]}, {"std": [float("nan")]}, {"mean": [True]}, {"mean": []},
             {"std": [10**400]}, {"image_size": [28]}, {"image_size": [28, -1]}, {"resize": "longer"}, {"resize": True},
             {"crop_fraction": 2}, {"interpolation": "nearest"}, {"background": "#fff"}, {"extra": 1}]  # fmt: skip
    texts = [json.dumps({**good, **change}) for change in wrong]
    for text in (*texts, "", "[]", "{}", "null", "[" * 200_000, '{"mean":' * 2000, "9" * 5000):
        safetensors.write(path, {}, {ENTRY: text})
        with pytest.raises(UsageError, match="invalid preprocessing recorded in") as error:
            recorded(path)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500


def test_summed_kernels_see_a_gray_image_as_one_that_is_repeated_in_each_channel(tmp_path):
    color = create_model("resnet18", 3, width=8)
    variables = random_variables(color, (32, 32, 3))
    path = tmp_path / "color.safetensors"
    weights.save(path, "resnet18", variables, to="torchvision", model=color)
    options = {"image_shape": (32, 32, 1), "width": 8}
    with pytest.raises(
        UsageError, match=r"for images of 3 channels, not 1\. .* --init-channels sum .*channels=\"sum\""
    ):
        weights.convert("resnet18", path, **options)
    with pytest.raises(UsageError, match="did you mean 'sum'"):
        weights.convert("resnet18", path, channels="summ", **options)
    conversion = weights.convert("resnet18", path, channels="sum", **options)
    assert conversion.summed_channels == 3
    (row,) = (row for row in conversion.rows if "summed" in row.change)
    assert (row.target, row.change) == ("params/stem/conv/kernel", "transposed, summed over 3 input channels")
    assert (row.source_shape, row.shape) == ((8, 3, 7, 7), (7, 7, 1, 8))
    assert conversion.preprocessing.mean == pytest.approx((0.449,), abs=1e-3)
    gray = np.random.default_rng(1).normal(size=(1, 32, 32, 1)).astype(np.float32)
    ours = create_model("resnet18", 3, width=8).apply(conversion.variables, gray, train=False)
    theirs = color.apply(variables, np.repeat(gray, 3, -1), train=False)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
    # Files with our names too; and files of gray images are not changed.
    weights.save(path, "resnet18", variables)
    summed = weights.load("resnet18", path, channels="sum", **options)
    np.testing.assert_array_equal(
        summed["params"]["stem"]["conv"]["kernel"], conversion.variables["params"]["stem"]["conv"]["kernel"]
    )
    weights.save(path, "resnet18", summed)
    assert weights.convert("resnet18", path, channels="sum", **options).summed_channels is None


def test_weights_that_are_not_finite_are_refused_by_name(lenet, tmp_path):
    path = tmp_path / "lenet.safetensors"
    head = {"kernel": lenet["params"]["head"]["kernel"], "bias": np.full(10, np.nan, np.float32)}
    weights.save(path, "lenet5", {"params": {**lenet["params"], "head": head}}, image_shape=(28, 28, 1))
    with pytest.raises(UsageError, match=r"1 arrays in the file have infinite or NaN values \(params/head/bias\)"):
        weights.load("lenet5", path)
    assert weights.load("lenet5", path, drop_head=True)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/dev/null/x.safetensors", "Not a directory"),
        ("missing/x.safetensors", "cannot write"),
        ("folder", "this path is a directory"),
        ("folder.safetensors", "this path is a directory"),
        (f"{'x' * 300}.safetensors", "is not a path"),
        ("a\0b.safetensors", "NUL characters"),
        ("~nobody5/x.safetensors", "home directory"),
    ],
)
def test_an_output_that_cannot_be_written_is_one_line_and_leaves_nothing(name, says, lenet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UsageError, match=says) as error:
        weights.save(name, "lenet5", lenet)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "folder.safetensors"]


@pytest.mark.parametrize("name", [f"{'x' * 300}.pth", "a\0b.pth", "~nobody5/x.pth", "/dev/null/x.pth", "."])
def test_an_input_that_cannot_be_read_is_one_line(name):
    with pytest.raises(UsageError) as error:
        weights.convert("lenet5", name)
    assert "\n" not in str(error.value)


def test_nested_json_in_the_header_is_one_line(tmp_path):
    path = tmp_path / "x.safetensors"
    for depth in (500, 3000, 200_000):
        for key in ("dtype", "shape", "data_offsets"):
            nested = "[" * depth + "]" * depth
            fields = {"dtype": '"F32"', "shape": "[]", "data_offsets": "[0, 4]", key: nested}
            header = '{"x": {' + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}}"
            path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4))
            with pytest.raises(UsageError, match="is not a valid safetensors file") as error:
                safetensors.read(path)
            assert len(str(error.value)) < 400


def test_names_of_arrays_that_are_not_printable_are_escaped(tmp_path, lenet):
    path = tmp_path / "x.safetensors"
    arrays = {**weights.to_ours(lenet), "a\nb\x1b[31m": np.zeros(1, np.float32), "\ud800": np.zeros(1, np.float32)}
    safetensors.write(path, arrays, {"image_shape": "28x28x1"})
    with pytest.raises(UsageError, match="2 unexpected") as error:
        weights.load("lenet5", path)
    assert str(error.value).isprintable()
