"""Published state dicts become our variables and come back bit-equal; what does not fit is listed."""

import functools
import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcnn import weights
from jaxcnn.errors import UsageError
from jaxcnn.models import create_model
from jaxcnn.models.mobile._inverted_residual import Row
from jaxcnn.models.mobile.mobilenet_v3 import Bneck
from jaxcnn.weights import layout, safetensors
from jaxcnn.weights._locations import module_of, torch_name
from jaxcnn.weights._stored import Stored
from jaxcnn.weights.conversion import from_file, template
from jaxcnn.weights.layout import torch_shape
from jaxcnn.weights.names import COUNTER, TIMM, TORCHVISION, TORCHVISION_MODEL
from jaxcnn.weights.naming.timm import DENSE_AS_CONVOLUTION, TIMM_MODELS

# One model of each kind of block and classifier; the deeper and wider ones take long to trace and are slow tests.
SAMPLE = {"alexnet", "vgg11", "vgg16_bn", "googlenet_bn", "resnet18", "resnet50", "resnext50_32x4d", "densenet121"}
SAMPLE |= {"convnext_tiny", "regnet_y_400mf", "shufflenet_v2_x0_5", "squeezenet1_1"}
SAMPLE |= {"mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "efficientnet_b0"}
EVERY_MODEL = [pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.slow) for name in TORCHVISION]
SIGNATURES = json.loads((Path(__file__).parent / "golden" / "state_dicts.json").read_text())


def signature(state) -> dict:
    """As in `golden/make.py`, which has the state dicts themselves."""
    lines = sorted(f"{name} {array.dtype} {list(array.shape)}" for name, array in state.items())
    return {"tensors": len(lines), "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


def unflatten(arrays):
    tree = {}
    for name, array in arrays.items():
        *path, last = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = array
    return tree


def counted(shapes, dtype=np.float32):
    """Variables whose numbers are all different as far as float32 can tell, and run on from one array to the next."""
    arrays, start = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape.shape))
        arrays[name] = np.arange(start, start + size, dtype=dtype).reshape(shape.shape)
        start += size
    return unflatten(arrays)


@functools.cache
def shapes_of(model):
    return template(model, (224, 224, 3))


def narrow(name, **fields):
    """The model; where most of its parameters are in fully connected layers, or it has 645 million, a narrower one."""
    if name.startswith(("alexnet", "vgg")):
        fields.setdefault("hidden", 24)
    if name == "regnet_y_128gf":
        fields |= {"widths": (16, 32, 48, 64), "group_width": 16}
    return create_model(name, **fields)


def stored(state):
    return {name: Stored(array.shape, array.dtype, lambda array=array: array) for name, array in state.items()}


def back(name, model, state, **options):
    def build(classes):
        return model if classes in (None, model.num_classes) else narrow(name, num_classes=classes)

    return from_file(name, build, stored(state), **options)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_the_state_dict_is_torchvisions_in_names_types_and_shapes(name):
    shapes = shapes_of(create_model(name))
    blank = {key: np.broadcast_to(np.float32(0), shape.shape) for key, shape in shapes.items()}  # takes no memory
    state, _ = weights.to_torchvision(name, unflatten(blank))
    assert signature(state) == SIGNATURES["torchvision"][TORCHVISION_MODEL.get(name, name)]
    if name in SIGNATURES["timm"] and name not in TIMM:
        assert signature(state) == SIGNATURES["timm"][name]


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_export_and_import_are_bit_equal(name):
    model = narrow(name)
    variables = counted(shapes_of(model))
    state, _ = weights.to_torchvision(name, variables, model)
    conversion = back(name, model, state)
    assert jax.tree.structure(conversion.variables) == jax.tree.structure(variables)
    for ours, original in zip(jax.tree.leaves(conversion.variables), jax.tree.leaves(variables), strict=True):
        assert ours.dtype == original.dtype
        np.testing.assert_array_equal(ours, original)
    assert conversion.num_classes == 1000
    assert all(COUNTER in left for left in conversion.unused)


def test_the_first_fully_connected_layer_sees_the_same_numbers():
    generator = np.random.default_rng(0)
    maps = generator.normal(size=(5, 7, 7, 512))
    theirs = generator.normal(size=(3, 512 * 7 * 7))
    ours = layout.from_torch(theirs, (7 * 7 * 512, 3), 512)
    torchs = maps.transpose(0, 3, 1, 2).reshape(5, -1) @ theirs.T
    np.testing.assert_allclose(maps.reshape(5, -1) @ ours, torchs)
    np.testing.assert_array_equal(layout.to_torch(ours, 512), theirs)


TIMM_SAMPLE = {"convnext_tiny", "regnety_004", "resnet50", "mobilenetv3_small_100"}


@pytest.mark.parametrize(
    "theirs",
    [
        pytest.param(name, marks=[] if name in TIMM_SAMPLE else pytest.mark.slow)
        for name in SIGNATURES["timm"]
        if not name.startswith("vgg")
    ],
)
def test_the_arrays_of_timm_have_the_names_types_and_shapes_that_are_read(theirs):
    ours = TIMM_MODELS.get(theirs, theirs)
    model, state = create_model(ours), {}
    names = TIMM.get(ours, TORCHVISION[ours])(model)
    for name, array in shapes_of(model).items():
        key = torch_name(name, names)
        is_convolution = name.endswith("/kernel") and module_of(name) in DENSE_AS_CONVOLUTION.get(ours, ())
        shape = (*torch_shape(array.shape), 1, 1) if is_convolution else torch_shape(array.shape)
        state[key] = np.broadcast_to(np.float32(0), shape)
        if key.endswith("running_var"):
            state[key.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    assert signature(state) == SIGNATURES["timm"][theirs]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("convnext_tiny", {"stage_sizes": (1, 1), "widths": (8, 16)}),
        ("regnet_y_400mf", {"stage_sizes": (1, 2), "widths": (8, 16), "group_width": 8}),
        ("resnet50", {"stage_sizes": (1, 1), "width": 8}),
        ("vgg11", {"hidden": 24}),
        ("mobilenet_v2", {"table": (Row(1, 8, 1, 1), Row(6, 16, 2, 2))}),
        ("efficientnet_b0", {"table": (Row(1, 8, 1, 1), Row(6, 16, 2, 2, 5))}),
    ],
)
def test_export_to_timm_and_import_are_bit_equal(name, fields):
    model = create_model(name, **fields)
    variables = counted(shapes_of(model))
    state, rows = weights.to_timm(name, variables, model)
    assert len(rows) == len(jax.tree.leaves(variables))
    again = back(name, model, state).variables
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_a_variance_makes_up_for_the_epsilon_of_timm():
    model = create_model("mobilenet_v3_small", table=((Bneck(3, 16, 16, True, "RE", 2),),), hidden=8)
    variables = counted(shapes_of(model))
    state, _ = weights.to_timm("mobilenet_v3_small", variables, model)
    ours = variables["batch_stats"]["stem"]["norm"]["var"]
    np.testing.assert_allclose(state["bn1.running_var"] + 1e-5, ours + 1e-3, rtol=1e-6)
    again = back("mobilenet_v3_small", model, state).variables
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again, variables)


def test_timms_arrays_have_its_shapes():
    model = create_model("vgg11", hidden=24)
    state, _ = weights.to_timm("vgg11", counted(shapes_of(model)), model)
    assert state["pre_logits.fc1.weight"].shape == (24, 512, 7, 7)
    assert state["pre_logits.fc2.weight"].shape == (24, 24, 1, 1)
    assert state["head.fc.weight"].shape == (1000, 24)
    model = create_model("convnext_tiny", stage_sizes=(1,), widths=(8,))
    state, _ = weights.to_timm("convnext_tiny", counted(shapes_of(model)), model)
    assert state["stages.0.blocks.0.gamma"].shape == (8,)


def test_a_model_without_names_in_timm_is_one_line():
    with pytest.raises(UsageError, match="names in timm are not known for 'alexnet'"):
        weights.to_timm("alexnet", {"params": {}})


@pytest.mark.parametrize("name", ["vgg11", "vgg16_bn"])
def test_timms_vgg_whose_fully_connected_layers_are_convolutions_is_read(name):
    model = narrow(name)
    variables = counted(shapes_of(model))
    state, _ = weights.to_torchvision(name, variables, model)
    names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
    timm = {}
    for key, array in state.items():
        module, _, field = key.rpartition(".")
        size = {"classifier.0": 7, "classifier.3": 1}.get(module)
        if field == "weight" and size:
            array = array.reshape(len(array), -1, size, size)
        timm[f"{names.get(module, module)}.{field}"] = array
    for ours, original in zip(
        jax.tree.leaves(back(name, model, timm).variables), jax.tree.leaves(variables), strict=True
    ):
        np.testing.assert_array_equal(ours, original)
    wide = {key: np.broadcast_to(array.dtype.type(0), array.shape) for key, array in timm.items()}
    for key, shape in {
        "pre_logits.fc1.weight": (4096, 512, 7, 7),
        "pre_logits.fc1.bias": (4096,),
        "pre_logits.fc2.weight": (4096, 4096, 1, 1),
        "pre_logits.fc2.bias": (4096,),
        "head.fc.weight": (1000, 4096),
    }.items():
        wide[key] = np.broadcast_to(np.float32(0), shape)
    assert signature(wide) == SIGNATURES["timm"][name]


@pytest.fixture(scope="module")
def resnet18():
    """torchvision's state dict of a ResNet-18."""
    return weights.to_torchvision("resnet18", counted(shapes_of(create_model("resnet18"))))[0]


def resnet18_from(state, **options):
    return from_file("resnet18", lambda classes: create_model("resnet18", classes), stored(state), **options)


def test_the_report_lists_the_change_of_each_tensor(resnet18):
    rows = {row.target: row for row in resnet18_from(resnet18).rows}
    assert len(rows) == 102
    kernel = rows["params/stage2_block1/shortcut_conv/kernel"]
    assert (kernel.source, kernel.change) == ("layer2.0.downsample.0.weight", "transposed")
    assert (kernel.source_shape, kernel.shape) == ((128, 64, 1, 1), (1, 1, 64, 128))
    assert rows["batch_stats/stem/norm/var"].source == "bn1.running_var"
    assert rows["batch_stats/stem/norm/var"].change == "unchanged"
    model = narrow("vgg11")
    state, _ = weights.to_torchvision("vgg11", counted(shapes_of(model)), model)
    changes = {row.target: row.change for row in back("vgg11", model, state).rows}
    assert changes["params/fc6/kernel"] == "rows permuted, transposed"
    assert changes["params/fc7/kernel"] == "transposed"


def test_the_number_of_classes_is_that_of_the_file_unless_another_is_asked_for(resnet18):
    ten = {**resnet18, "fc.weight": np.ones((10, 512), np.float32), "fc.bias": np.ones(10, np.float32)}
    conversion = resnet18_from(ten)
    assert conversion.num_classes == 10
    assert conversion.variables["params"]["head"]["kernel"].shape == (512, 10)
    with pytest.raises(UsageError, match=r"has 10 classes, not num_classes=37\. .* drop_head"):
        resnet18_from(ten, num_classes=37)


def test_a_dropped_head_is_fresh_and_everything_else_is_the_files(resnet18):
    conversion = resnet18_from(resnet18, num_classes=37, drop_head=True, seed=1)
    head = conversion.variables["params"]["head"]
    assert head["kernel"].shape == (512, 37)
    assert 0 < head["kernel"].std() < 1
    assert conversion.rows[-1].change == "initialized with seed 1"
    other = resnet18_from(resnet18, num_classes=37, drop_head=True, seed=2)
    assert not np.array_equal(head["kernel"], other.variables["params"]["head"]["kernel"])
    stem = conversion.variables["params"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(stem, resnet18["conv1.weight"].transpose(2, 3, 1, 0))


def test_a_backbone_without_a_head_fits_if_a_head_is_dropped(resnet18):
    backbone = {name: array for name, array in resnet18.items() if not name.startswith("fc.")}
    with pytest.raises(UsageError, match=r"2 missing \(fc.bias, fc.weight\)"):
        resnet18_from(backbone)
    assert resnet18_from(backbone, num_classes=5, drop_head=True).num_classes == 5


def test_every_mismatch_is_listed(resnet18):
    odd = dict(resnet18)
    odd["layer9.weight"] = odd.pop("layer4.1.conv2.weight")
    odd["conv1.weight"] = np.zeros((64, 1, 7, 7), np.float32)
    odd["bn1.bias"] = np.zeros(64, np.int64)
    with pytest.raises(UsageError) as error:
        resnet18_from(odd)
    message = str(error.value)
    assert "1 missing (layer4.1.conv2.weight)" in message
    assert "1 unexpected (layer9.weight)" in message
    assert "conv1.weight [64, 1, 7, 7], not [64, 3, 7, 7]" in message
    assert "bn1.bias of int64, not float" in message
    assert "\n" not in message
    with pytest.raises(UsageError, match=r"91 missing .* and 83 more"):
        resnet18_from({name: array for name, array in resnet18.items() if "conv1.weight" in name or "fc" in name})


def test_another_models_file_is_refused_by_its_names(resnet18):
    with pytest.raises(UsageError, match=r"array names in the file do not match vgg11 .*: '(conv1|fc|bn1|layer)"):
        from_file("vgg11", lambda classes: create_model("vgg11", classes), stored(resnet18))
    with pytest.raises(UsageError, match="do not fit resnet34"):
        from_file("resnet34", lambda classes: create_model("resnet34", classes), stored(resnet18))


def test_names_written_by_dataparallel_and_old_versions_are_accepted(resnet18):
    prefixed = {f"module.{name}": array for name, array in resnet18.items()}
    assert resnet18_from(prefixed).num_classes == 1000
    model = create_model("densenet121")
    state, _ = weights.to_torchvision("densenet121", counted(shapes_of(model)))
    old = {}
    for name, array in state.items():
        if COUNTER not in name:
            for part in ("norm", "conv"):
                for number in "12":
                    name = name.replace(f".{part}{number}.", f".{part}.{number}.") if "denselayer" in name else name
            old[name] = array
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert not back("densenet121", model, old).unused


def test_half_precision_becomes_float32(resnet18):
    half = {name: array if COUNTER in name else (array % 64).astype(np.float16) for name, array in resnet18.items()}
    conversion = resnet18_from(half)
    assert {leaf.dtype for leaf in jax.tree.leaves(conversion.variables)} == {np.dtype(np.float32)}
    assert conversion.rows[0].change.endswith("float16 to float32")


def test_googlenets_auxiliary_heads_are_optional():
    model = create_model("googlenet_bn")
    state, _ = weights.to_torchvision("googlenet_bn", counted(shapes_of(model)))
    assert {"aux1", "aux2"} <= set(back("googlenet_bn", model, state).variables["params"])
    without = {name: array for name, array in state.items() if not name.startswith("aux")}
    conversion = back("googlenet_bn", model, without)
    assert not {"aux1", "aux2"} & set(conversion.variables["params"])
    images = np.zeros((1, 64, 64, 3), np.float32)
    assert jax.eval_shape(lambda: model.apply(conversion.variables, images, train=False)).shape == (1, 1000)


def test_our_own_files_come_back_with_the_size_of_their_images(tmp_path):
    model = create_model("lenet5", 7)
    variables = counted(template(model, (28, 28, 1)))
    path = tmp_path / "lenet.safetensors"
    weights.save(path, "lenet5", variables, image_shape=(28, 28, 1))
    assert safetensors.metadata(path)["model"] == "lenet5"
    loaded = weights.load("lenet5", path)
    for ours, original in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(ours, original)


def test_a_mistake_is_one_line(tmp_path):
    variables = counted(template(create_model("lenet5"), (28, 28, 1)))
    for wrong, says in (
        ({"path": tmp_path / "x.safetensors", "to": "torchvision"}, "has no counterpart in torchvision"),
        ({"path": tmp_path / "x.safetensors", "to": "torch"}, "'ours', 'torchvision' or 'timm'"),
        ({"path": tmp_path / "x.pth"}, r"The name must end in \.safetensors"),
    ):
        with pytest.raises(UsageError, match=says):
            weights.save(model_name="lenet5", variables=variables, **wrong)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="did you mean 'resnet50'"):
        weights.load("resnet5", tmp_path / "none.pth")
    with pytest.raises(UsageError, match="does not exist"):
        weights.load("resnet50", tmp_path / "none.pth")
