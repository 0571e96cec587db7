"""Sources with `len` and `[i]` are a dataset, with the pixels that `predict` sees."""

import io
import itertools
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import decode, from_source, open_dataset, open_pipeline
from jaxcnn.data.decode import Geometry
from jaxcnn.data.sources import source as source_module
from jaxcnn.errors import UsageError

random = np.random.default_rng(0)
PIXELS = random.integers(0, 256, (12, 9, 8, 3), dtype=np.uint8)
PAIRS = [(image, index % 3) for index, image in enumerate(PIXELS)]


class Source:
    """A source that counts what is read."""

    def __init__(self, examples):
        self.examples, self.read = examples, []

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        self.read.append(index)
        return self.examples[index]


class Tensor:
    """A tensor as those of torch: `numpy` is for those that are detached and on the host only."""

    def __init__(self, array, free=False):
        self._array, self._free, self.shape = array, free, array.shape

    def detach(self):
        return Tensor(self._array, free=True)

    def cpu(self):
        return self

    def numpy(self):
        assert self._free
        return self._array


@pytest.fixture
def too_large(monkeypatch):
    """No source fits into memory."""
    monkeypatch.setattr(source_module, "fits_memory", lambda *_: False)


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def images_of_all_modes():
    """Return images of Pillow in all modes, each with the content of its file."""
    random = np.random.default_rng(1)
    smooth = Image.fromarray(random.integers(0, 256, (4, 4, 4), dtype=np.uint8)).resize((30, 22))
    gray16 = Image.fromarray(random.integers(0, 2**16, (22, 30)).astype(np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    contents = {
        "RGB": encoded(smooth.convert("RGB")),
        "RGBA": encoded(smooth),
        "L": encoded(smooth.convert("L")),
        "LA": encoded(smooth.convert("LA")),
        "1": encoded(smooth.convert("1")),
        "palette": encoded(smooth.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=9)),
        "16 bits": encoded(gray16),
        "CMYK": encoded(smooth.convert("CMYK"), "TIFF"),
        "turned": encoded(smooth.convert("RGB"), "PNG", exif=turned),
        "JPEG": encoded(smooth.convert("RGB").resize((300, 220)), "JPEG", quality=90),
        "GIF": encoded(smooth.convert("RGB"), "GIF", transparency=3),
    }
    return {name: (Image.open(io.BytesIO(content)), content) for name, content in contents.items()}


@pytest.mark.parametrize("geometry", [Geometry((12, 12), background="black"), Geometry((9, 14), "stretch", 0.8)])
@pytest.mark.parametrize("kind", ["Pillow", "bytes", "path", "Hugging Face"])
def test_pixels_of_images_of_all_modes_are_those_of_their_files(kind, geometry, tmp_path):
    examples = []
    images = images_of_all_modes()
    if kind == "Pillow":
        del images["JPEG"]  # files are decoded at a reduced size
    for name, (image, content) in images.items():
        (tmp_path / name).write_bytes(content)
        as_kind = {
            "Pillow": image,
            "bytes": content,
            "path": str(tmp_path / name),
            "Hugging Face": {"bytes": content, "path": None},
        }
        examples.append({"image": as_kind[kind], "label": name})
    dataset = from_source(examples, examples)
    assert dataset.sizes_differ
    assert dataset.image_shape[-1] == 3  # some have colors
    batch = dataset.load("test", range(len(examples)), geometry)
    for index, (_, content) in enumerate(images.values()):
        np.testing.assert_array_equal(batch["image"][index], decode.decode(content, 3, geometry))
    gray = dataset.load("test", [0], geometry, channels=1)["image"][0]
    assert gray.shape == (*geometry.size, 1)


@pytest.mark.parametrize("form", ["uint8", "lists", "tensors", "tensors of channels first"])
def test_arrays_keep_their_pixels(form):
    as_form = {
        "uint8": lambda image: image,
        "lists": lambda image: image.tolist(),
        "tensors": Tensor,
        "tensors of channels first": lambda image: Tensor(image.transpose(2, 0, 1)),
    }[form]
    examples = [(as_form(image), label) for image, label in PAIRS]
    dataset = from_source(examples, examples)
    assert dataset.image_shape == (9, 8, 3)
    np.testing.assert_array_equal(dataset.read("train")[0], PIXELS)
    np.testing.assert_array_equal(dataset.labels("train"), np.arange(12) % 3)


def test_float_tensors_with_channels_first_are_transposed():
    examples = [(Tensor((image / 255).astype(np.float32).transpose(2, 0, 1)), label) for image, label in PAIRS]
    dataset = from_source(examples, examples)
    assert dataset.pixel_range == 1.0
    np.testing.assert_array_equal(dataset.read("test")[0], (PIXELS / 255).astype(np.float32))
    np.testing.assert_allclose(dataset.statistics().mean, PIXELS.mean((0, 1, 2)) / 255, rtol=1e-5)
    gray = [(Tensor(image[None, ..., 0]), label) for image, label in PAIRS]
    assert from_source(gray, gray).image_shape == (9, 8, 1)


LABELS = {
    "numbers of NumPy": (lambda i: np.int64(i % 3), ("0", "1", "2")),
    "tensors": (lambda i: Tensor(np.array(i % 3)), ("0", "1", "2")),
    "strings": (lambda i: ("owl", "cat", "dog")[i % 3], ("cat", "dog", "owl")),
    "values": (lambda i: np.eye(3)[i % 3], ("0", "1", "2")),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_numbers_strings_or_values(kind):
    make, names = LABELS[kind]
    examples = [(image, make(index)) for index, image in enumerate(PIXELS)]
    dataset = from_source(examples, examples)
    assert dataset.class_names == names
    expected = {"strings": np.arange(12) % 3 - 1, "values": np.eye(3)[np.arange(12) % 3]}.get(kind, np.arange(12) % 3)
    np.testing.assert_array_equal(dataset.labels("test"), expected if kind != "strings" else expected % 3)


def test_fields_are_chosen_by_name_or_position():
    Record = namedtuple("Record", ("mask", "img", "fine_label"))
    records = [Record(image[..., 0], image, index % 3) for index, image in enumerate(PIXELS)]
    fields = {"image": "img", "label": "fine_label"}
    for examples, chosen in (
        (records, fields),
        ([record._asdict() for record in records], fields),
        ([tuple(record) for record in records], {"image": 1, "label": 2}),
    ):
        dataset = from_source(examples, examples, fields=chosen)
        assert set(dataset.load("train", [0])) == {"image", "label"}
        np.testing.assert_array_equal(dataset.read("train")[0], PIXELS)
    with_mask = from_source(records, records, fields={**fields, "mask": "mask"})
    np.testing.assert_array_equal(with_mask.decoded("train")["mask"], PIXELS[..., 0])
    assert with_mask.example_bytes(with_mask.geometry()) == 9 * 8 * 4
    images_alone = from_source(list(PIXELS), list(PIXELS))
    assert images_alone.labels("train") is None
    assert set(images_alone.load("test", [1, 2])) == {"image"}


def test_fields_that_are_not_arrays_are_left_out_with_a_note():
    examples = [{"image": image, "label": label, "id": str(label), "depth": label / 2} for image, label in PAIRS]
    dataset = from_source(examples, examples)
    assert dataset.notes == ("fields that are not arrays are left out: id",)
    np.testing.assert_array_equal(dataset.load("train", [4])["depth"], np.float32([0.5]))
    with pytest.raises(UsageError, match=r"field 'id' of example 0 of the training source is not an array: str\. Omit"):
        from_source(examples, examples, fields={"image": "image", "id": "id"})


def test_names_of_classes_are_those_of_the_source():
    def named(**attributes):
        source = Source(PAIRS)
        source.__dict__.update(attributes)
        return from_source(source, PAIRS).class_names

    names = ["ant", "bee", "cow"]
    feature = SimpleNamespace(names=names)
    assert named() == ("0", "1", "2")
    assert named(classes=names) == ("ant", "bee", "cow")
    assert named(features={"label": feature}) == ("ant", "bee", "cow")
    assert named(dataset_info=SimpleNamespace(features={"label": feature})) == ("ant", "bee", "cow")
    assert from_source(PAIRS, PAIRS, class_names=names).class_names == ("ant", "bee", "cow")


def test_sources_of_tfds_are_read(grey):
    named = open_dataset("mnist", grey)
    train, test = (named._builder.as_data_source(split=split) for split in ("train", "test"))
    dataset = from_source(train, test)
    assert dataset.class_names == named.class_names
    for split in ("train", "test"):
        for ours, theirs in zip(dataset.read(split), named.read(split), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_source_that_fits_into_memory_is_read_once():
    train = Source(PAIRS)
    dataset = from_source(train, PAIRS)
    read = len(train.read)
    dataset.read("train")
    dataset.labels("train")
    dataset.fingerprint()
    list(itertools.islice(open_pipeline(dataset, 4, residence="disk", workers=2).batches(), 5))
    assert len(train.read) == read


def test_a_source_that_is_too_large_is_read_for_each_batch(too_large):
    train = Source(PAIRS)
    dataset = from_source(train, PAIRS)
    assert dataset.labels("train").tolist() == [label for _, label in PAIRS]
    train.read.clear()
    batch = dataset.load("train", [5, 1])
    assert train.read == [5, 1]
    np.testing.assert_array_equal(batch["image"], PIXELS[[5, 1]])
    assert dataset.fingerprint() == from_source(PAIRS, PAIRS).fingerprint()


def test_stored_labels_save_reading_all_of_a_large_source(too_large, monkeypatch):
    monkeypatch.setattr("jaxcnn.data.sources.reader.SAMPLES", 4)
    train = Source(PAIRS)
    train.targets, train.classes = [label for _, label in PAIRS], ["ant", "bee", "cow"]
    dataset = from_source(train, PAIRS)
    assert sorted(set(train.read)) == [0, 3, 7, 11]
    assert dataset.labels("train").tolist() == train.targets
    assert dataset.class_names == ("ant", "bee", "cow")
    train.targets = train.targets[::-1]  # not those of the examples
    assert from_source(train, PAIRS).labels("train").tolist() == [label for _, label in PAIRS]


def test_an_image_of_another_size_that_was_not_seen_at_first_is_refused(too_large, monkeypatch):
    monkeypatch.setattr("jaxcnn.data.sources.reader.SAMPLES", 2)
    examples = [*PAIRS[:5], (PIXELS[5, 1:], 2), *PAIRS[6:]]
    train = Source(examples)
    train.targets = [label for _, label in examples]
    dataset = from_source(train, PAIRS)
    with pytest.raises(UsageError, match="images of the training source differ in size: example 5 is 8 x 8, othe"):
        dataset.read("train")
    assert dataset.decoded("train", dataset.geometry(6))["image"].shape == (12, 6, 6, 3)


@pytest.mark.parametrize("sizes_known", [True, False])
def test_images_of_different_sizes_need_a_common_size(sizes_known):
    examples = [*PAIRS[:5], (PIXELS[5, 1:], 2), *PAIRS[6:]]
    dataset = from_source(examples, PAIRS)
    with pytest.raises(UsageError, match=r"images of dataset 'source' differ in size\. Set a common size"):
        dataset.read("train")
    pipeline = open_pipeline(dataset, 4, geometry=dataset.geometry(7), augment=["resized_crop"])
    assert pipeline.residence == "disk"
    assert next(pipeline.batches())["image"].shape == (4, 7, 7, 3)
    assert dataset.statistics().mean != dataset.statistics(dataset.geometry(4)).mean


def test_a_source_that_changes_its_length_is_named(too_large):
    train = Source(list(PAIRS))
    dataset = from_source(train, PAIRS)
    del train.examples[-1]
    with pytest.raises(
        UsageError, match=r"the training source has changed its length .*: 11 instead of 12 examples. Give"
    ):
        dataset.load("train", [0])


def test_what_a_source_raises_is_named_with_the_example():
    class Fails(Source):
        def __getitem__(self, index):
            if index == 7:
                raise KeyError("no such row")
            return super().__getitem__(index)

    with pytest.raises(
        UsageError, match=r"example 7 of the test source cannot be read: KeyError: 'no such row'. Correct"
    ):
        from_source(PAIRS, Fails(PAIRS))


def replaced(example, place=4):
    return [*PAIRS[:place], example, *PAIRS[place + 1 :]]


def with_nan():
    image = PIXELS[0].astype(np.float32)
    image[2, 2] = np.nan
    return [*((image / 1, label) for image, label in PAIRS[:8]), (image, 0)]


REFUSED = {
    "empty": ([], "the training source is empty. Give at least one example."),
    "no length": (iter(PAIRS), r"the training source does not support .*: list_iterator. .* from_batches"),
    "splits": ({"train": PAIRS, "test": PAIRS}, "the training source is a dict of 'train', 'test'. Give one"),
    "arrays": ((PIXELS, np.arange(12) % 3), "the training source is a pair of arrays. Use from_arrays."),
    "no image": (replaced((object(), 1)), "image 4 of the training source is not an image: object. Give an array"),
    "vector": (replaced((PIXELS[0, 0, 0], 1)), r"image 4 of the training source has the shape \[3\]. Give \[H, W, C\]"),
    "damaged": (replaced((b"\x89PNG broken", 1)), "example 4 of the training source cannot be read: "),
    "no file": (
        replaced(("/no/such/file.png", 1)),
        "example 4 .* cannot be read: FileNotFoundError: .*/no/such/file.png",
    ),
    "range": (
        replaced((PIXELS[0].astype(int) * 2, 1)),
        "images of the training source have pixels outside 0 to 255, .* 4",
    ),
    "nan": (with_nan(), "images of the training source have NaN or infinite pixels, first in example 8. Remove"),
    "types": (
        replaced((PIXELS[0] / 255, 1)),
        "some images are uint8 and others are float. Give all images the same type.",
    ),
    "channels": (replaced((PIXELS[0, ..., :2], 1)), "images have different numbers of channels: 2, 3"),
    "label": (replaced((PIXELS[0], -2)), "label of example 4 of the training split is out of range: -2"),
    "missing class": (
        [(image, 2 * (i % 2)) for i, image in enumerate(PIXELS)],
        "1 class has no training examples: '1'",
    ),
    "some labels": (
        replaced((PIXELS[0], None)),
        "example 4 of the training source has no label. Give each example a label.",
    ),
    "img": (
        [{"img": PIXELS[0], "y": 0}],
        "have no field 'image'. The fields are 'img', 'y'. Name the fields, such as fields=.*'img'",
    ),
    "fine": (
        [{"image": PIXELS[0], "fine_label": 0}],
        "have no field 'label'. The .* fields=.'image': .*'fine_label'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_sources_that_cannot_be_used_are_refused_in_one_line(case):
    train, says = REFUSED[case]
    with pytest.raises(UsageError, match=says) as error:
        from_source(train, PAIRS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"image": "imgs"}, r"fields\['image'\] is not a field of the training source: 'imgs'. Did you mean 'img'"),
        ({"label": "y"}, "fields has no key 'image'"),
    ],
)
def test_a_wrong_field_is_refused_with_the_closest(fields, says):
    examples = [{"img": image, "y": label} for image, label in PAIRS]
    with pytest.raises(UsageError, match=says):
        from_source(examples, examples, fields=fields)


def test_other_arrays_must_have_equal_shapes():
    examples = [{"image": image, "boxes": np.zeros((1 + (i == 3), 4))} for i, image in enumerate(PIXELS)]
    dataset = from_source(examples, examples)
    with pytest.raises(
        UsageError, match=r"'boxes' of the training source differs in shape: float32 .2, 4. in example 3"
    ):
        dataset.load("train", range(5))


def test_other_examples_change_the_fingerprint():
    before = from_source(PAIRS, PAIRS).fingerprint()
    other = from_source(replaced((PIXELS[4] ^ 1, 1)), PAIRS).fingerprint()
    assert {part for part in before if before[part] != other[part]} == {"the training source"}
    labels = from_source(PAIRS, replaced((PIXELS[4], 2))).fingerprint()
    assert {part for part in before if before[part] != labels[part]} == {"the test source"}
    assert from_source(PAIRS[:-1], PAIRS).fingerprint()["the training source"]["images"] == 11


def test_held_out_examples_of_a_source_keep_their_labels():
    dataset = from_source(PAIRS, PAIRS).with_validation(0.25, seed=3).with_classes(("2", "1", "0"))
    assert dataset.examples == {"train": 9, "test": 12, "validation": 3}
    label_of = {image.tobytes(): 2 - label for image, label in PAIRS}
    for split in ("train", "validation"):
        batch = dataset.decoded(split)
        assert [label_of[image.tobytes()] for image in batch["image"]] == batch["label"].tolist()
    pipeline = open_pipeline(dataset, 3, residence="disk", workers=2)
    (only,) = pipeline.evaluation_batches(4, split="validation")
    assert only.mask.tolist() == [True, True, True, False]
