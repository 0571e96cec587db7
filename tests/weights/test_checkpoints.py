"""Checkpoints in the forms in which people save them, written by PyTorch itself."""

import argparse
import collections
import datetime
import enum
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.models import create_model
from jaxcnn.weights import convert, safetensors, to_torchvision
from jaxcnn.weights.conversion import template

torch: Any = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

FIELDS = {"stage_sizes": (1, 1, 1, 1), "num_classes": 5}
IMAGE_SHAPE = (32, 32, 3)


class Color(enum.Enum):
    RED = 1


class Options(dict):
    """A dict with attributes, as many libraries of configurations have."""

    __getattr__ = dict.__getitem__


class Trainer:
    def __init__(self, **attributes: Any):
        self.__dict__.update(attributes)


def arrays() -> dict[str, np.ndarray]:
    """Return the state dict of a small ResNet-18, in torchvision's names."""
    model, generator = create_model("resnet18", **FIELDS), np.random.default_rng(0)
    variables: dict[str, Any] = {}
    for name, shape in template(model, IMAGE_SHAPE).items():
        *path, last = name.split("/")
        table = variables
        for part in path:
            table = table.setdefault(part, {})
        table[last] = generator.uniform(0.5, 1, shape.shape).astype(np.float32)
    return to_torchvision("resnet18", variables, model)[0]


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in arrays().items()}


def under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in state.items()}


def other(state: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor + 1 for name, tensor in state.items()}


def module(state: dict[str, Any]) -> Any:
    """Return a tree of modules with this state dict."""
    root = torch.nn.Module()
    for name, tensor in state.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, torch.nn.Module())
            place = place._modules[part]
        if last in ("weight", "bias"):
            place.register_parameter(last, torch.nn.Parameter(tensor))
        else:
            place.register_buffer(last, tensor)
    return root


def optimizer(state: dict[str, Any], kind: str = "SGD") -> dict[str, Any]:
    parameters = [torch.nn.Parameter(tensor) for name, tensor in state.items() if tensor.dtype == torch.float32]
    made = getattr(torch.optim, kind)(parameters, lr=0.1, **({"momentum": 0.9} if kind == "SGD" else {}))
    sum((parameter**2).sum() for parameter in parameters).backward()
    made.step()
    return made.state_dict()


def cast(state: dict[str, Any], dtype: Any) -> dict[str, Any]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


SETTINGS = {
    "namespace": lambda: argparse.Namespace(lr=0.1, device=torch.device("cpu"), dtype=torch.float32),
    "numbers of NumPy": lambda: {"best": np.float64(71.2), "confusion": np.eye(3), "classes": np.array(["a", "b"])},
    "paths": lambda: {"data": Path("data"), "time": datetime.datetime(2020, 1, 1), "day": datetime.timedelta(days=1)},
    "containers": lambda: [{1, 2}, frozenset("a"), collections.Counter("aab"), collections.defaultdict(list, a=[1])],
    "an enum": lambda: Color.RED,
    "a size": lambda: torch.Size([1, 2]),
    "own objects": lambda: [Options(lr=0.1), Trainer(history=[1, 2], best=np.float32(3))],
    "a schedule": lambda: {"last_epoch": 3, "_step_count": 4, "lr_lambdas": [None]},
    "a generator": lambda: torch.get_rng_state(),
    "a scaler": lambda: {"scale": 65536.0, "growth_factor": 2.0, "growth_interval": 2000, "_growth_tracker": 0},
    "nothing": lambda: None,
}

LAYOUTS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    **{
        f"prefix {prefix}": (prefix.removesuffix("."), lambda s, p=prefix: under(p, s))
        for prefix in (
            *("module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "model.module."),
            *("backbone.", "encoder.", "encoder_q.", "net.", "network.", "student.", "student.backbone.", "resnet."),
        )
    },
    **{
        f"key {key}": (key, lambda s, k=key: {k: s, "epoch": 3, "optimizer": optimizer(s)})
        for key in ("state_dict", "model", "model_state_dict", "model_state", "net", "weights", "params", "network")
    },
    **{
        f"beside {name}": ("state_dict", lambda s, make=make: {"other": make(), "state_dict": s})
        for name, make in SETTINGS.items()
    },
    "state dict": ("", lambda s: s),
    "plain dict": ("", dict),
    "parameters of torch": ("", lambda s: {name: torch.nn.Parameter(t, requires_grad=False) for name, t in s.items()}),
    "half": ("", lambda s: cast(s, torch.float16)),
    "bfloat16": ("", lambda s: cast(s, torch.bfloat16)),
    "double": ("", lambda s: cast(s, torch.float64)),
    "tuple with an optimizer": ("0", lambda s: (s, optimizer(s))),
    "list": ("1", lambda s: [3, s]),
    "example of ImageNet": (
        "state_dict.module",
        lambda s: {"epoch": 90, "arch": "resnet18", "state_dict": under("module.", s), "best_acc1": torch.tensor(69.8)},
    ),
    "Lightning": (
        "state_dict.model",
        lambda s: {
            "epoch": 3,
            "global_step": 100,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": under("model.", s),
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.9)}},
            "optimizer_states": [optimizer(s, "AdamW")],
            "lr_schedulers": [{"last_epoch": 3}],
            "hparams_name": "kwargs",
            "hyper_parameters": Options(lr=0.1),
        },
    ),
    "references of torchvision": (
        "model",
        lambda s: {
            "model": s,
            "optimizer": optimizer(s),
            "lr_scheduler": SETTINGS["a schedule"](),
            "epoch": 3,
            "args": SETTINGS["namespace"](),
            "model_ema": {"n_averaged": torch.tensor(3), **under("module.", other(s))},
            "scaler": SETTINGS["a scaler"](),
        },
    ),
    "timm": (
        "state_dict",
        lambda s: {
            "epoch": 3,
            "arch": "resnet18",
            "state_dict": s,
            "optimizer": optimizer(s),
            "version": 2,
            "args": SETTINGS["namespace"](),
            "state_dict_ema": other(s),
            "metric": np.float64(71.2),
        },
    ),
    "MoCo": (
        "state_dict.module.encoder_q",
        lambda s: {
            "state_dict": {
                **under("module.encoder_q.", s),
                **under("module.encoder_k.", other(s)),
                "module.queue": torch.zeros(128, 8),
                "module.queue_ptr": torch.zeros(1, dtype=torch.long),
            }
        },
    ),
    "DINO": (
        "student.module.backbone",
        lambda s: {"student": under("module.backbone.", s), "teacher": under("backbone.", other(s)), "epoch": 3},
    ),
    "average of weights": ("module", lambda s: {"n_averaged": torch.tensor(3), **under("module.", s)}),
    "module": ("", module),
    "DataParallel": ("module", lambda s: torch.nn.DataParallel(module(s))),
    "module in a dict": ("model", lambda s: {"model": module(s), "epoch": 3}),
    "object of a trainer": ("model", lambda s: Trainer(model=module(s), epoch=3, device=torch.device("cpu"))),
    "a view of one storage": ("", lambda s: views(s)),
}

REFUSED: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "sparse": (r"conv1.weight is a sparse tensor", lambda s: {**s, "conv1.weight": s["conv1.weight"].to_sparse()}),
    "meta": (r"fc.bias is a tensor on the meta device", lambda s: {**s, "fc.bias": s["fc.bias"].to("meta")}),
    "integers": (r"fc.bias of int32, not float", lambda s: {**s, "fc.bias": s["fc.bias"].int()}),
    "two of equal right": (r"several parts .* 'first', 'second'", lambda s: {"first": s, "second": other(s)}),
    "a copy without the network's rest": (r"fit resnet18: \d+ missing", lambda s: dict(list(s.items())[:20])),
    "no tensors": (r"contains no state dict", lambda s: {"epoch": 3}),
    "an optimizer alone": (r"do not match resnet18", optimizer),
}


def views(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state dict with all arrays of float32 in one storage."""
    flat = torch.cat([tensor.flatten() for tensor in state.values() if tensor.dtype == torch.float32])
    found, start = {}, 0
    for name, tensor in state.items():
        if tensor.dtype != torch.float32:
            found[name] = tensor
            continue
        found[name] = flat[start : start + tensor.numel()].reshape(tensor.shape)
        start += tensor.numel()
    return found


def test_at_least_sixty_checkpoints_are_tried():
    assert len(LAYOUTS) + len(REFUSED) >= 60


def loaded(path: Path, **options: Any):
    return convert("resnet18", path, image_shape=IMAGE_SHAPE, stage_sizes=FIELDS["stage_sizes"], **options)


def check(conversion: Any, state: dict[str, Any], tolerance: float = 0) -> None:
    for name, array in to_torchvision("resnet18", conversion.variables, create_model("resnet18", **FIELDS))[0].items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(array, state[name].numpy(), rtol=tolerance, atol=0)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_checkpoint_is_read(name, old, state, tmp_path):
    part, make = LAYOUTS[name]
    path = tmp_path / "checkpoint"
    torch.save(make(state), path, _use_new_zipfile_serialization=not old)
    found = loaded(path)
    assert found.part == part
    check(found, state, {"half": 1e-3, "bfloat16": 1e-2}.get(name, 0))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_one_line_that_says_what_it_is(name, state, tmp_path):
    says, make = REFUSED[name]
    path = tmp_path / "checkpoint.pth"
    torch.save(make(state), path)
    with pytest.raises(UsageError, match=says) as error:
        loaded(path)
    assert "\n" not in str(error.value)


def test_the_average_is_read_if_it_is_asked_for(state, tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(LAYOUTS["references of torchvision"][1](state), path)
    found = loaded(path, part="model_ema")
    assert found.part == "model_ema.module"
    check(found, other(state))


def test_float8_is_widened(state, tmp_path):
    path = tmp_path / "checkpoint.pth"
    small = {**state, "conv1.weight": state["conv1.weight"].to(torch.float8_e4m3fn)}
    torch.save(small, path)
    check(loaded(path), {**state, "conv1.weight": small["conv1.weight"].float()})


def test_files_of_torch_with_an_index_are_joined(state, tmp_path):
    names = list(state)
    files = {name: f"pytorch_model-0000{1 + (index > 30)}-of-00002.bin" for index, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: state[name] for name in names if files[name] == file}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    check(loaded(tmp_path), state)


def test_a_folder_of_hugging_face_is_read(state, tmp_path):
    safetensors.write(tmp_path / "model.safetensors", {name: tensor.numpy() for name, tensor in state.items()}, {})
    check(loaded(tmp_path), state)


def test_another_head_is_dropped(state, tmp_path):
    path = tmp_path / "checkpoint.pth"
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    torch.save({**body, "fc.0.weight": torch.zeros(9, 9), "fc.2.bias": torch.zeros(9)}, path)
    found = loaded(path, drop_head=True, num_classes=5)
    assert {"fc.0.weight", "fc.2.bias"} <= set(found.unused)
    assert found.classes_in_file is None
