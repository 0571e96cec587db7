"""Record what torchvision's networks answer with the weights of `formula.py`: one `.npz` a network, beside this file.

    python tests/models/golden/make.py            # all
    python tests/models/golden/make.py resnet18   # some

Needs torch and torchvision, which the tests do not. Last run with torch 2.13.0+cpu, torchvision 0.28.0 and NumPy
2.4.6, and for MobileNet, MnasNet and EfficientNet with torch 2.14.1 and torchvision 0.29.1 (the versions are in the
files too).

A file holds
- `eval`: logits in evaluation mode, `[batch, 1000]`;
- `train`: logits in training mode, every dropout at 0; for GoogLeNet `train_aux1` (after 4a), `train_aux2` (4d) too,
  and for Inception v3 `train_aux1`;
- `stat_names` and `stats`: for networks with batch normalisation, each running statistic after that one pass in
  training mode, as its mean over channels and its first channel's value, `[names, 2]`;
- `batch`, `size` and `width`, the arguments of `formula.images`; `torch` and `torchvision`, the versions.

PyTorch computes in double precision, and float32 is stored. What is printed is how far its own float32 is from that,
over the largest logit: the error that a correct float32 implementation may have.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).parent

# Batch, height and width. torchvision's AlexNet and VGG pool adaptively before the classifier, which at 224 changes
# nothing: "alexnet_adaptive" is AlexNet where that enlarges 2x4 to 6x6. GoogLeNet does so before its auxiliary heads:
# 96 makes 6x6 into 4x4 by windows that overlap, as 224 does of 14x14. The auxiliary head of Inception v3 needs 299, and
# 347 to have more than one position, over which to normalize.
MODELS = {
    "alexnet_adaptive": (2, 96, 160),
    "alexnet": (2, 224),
    "vgg11": (2, 224),
    "vgg16_bn": (2, 224),
    "googlenet": (4, 96),
    "resnet18": (4, 64),
    "resnet50": (4, 64),
    "resnext50_32x4d": (4, 64),
    "wide_resnet50_2": (4, 64),
    "densenet121": (4, 64),
    "convnext_tiny": (2, 64, 96),
    "inception_v3": (4, 352),
    "regnet_x_400mf": (4, 64, 96),
    "regnet_y_400mf": (4, 64, 96),
    "shufflenet_v2_x1_0": (4, 64, 96),
    "squeezenet1_0": (2, 96, 64),
    "squeezenet1_1": (2, 96, 64),
    "mobilenet_v2": (4, 64),
    "mobilenet_v3_small": (4, 64),
    "mnasnet0_5": (4, 64),
    "efficientnet_b0": (4, 64),
    "efficientnet_v2_s": (4, 64),
}
TOLERANCE = 2e-5


# Imports are inside functions, as pytest's doctest collection imports this file where there is no torch.
def import_torchvision():
    import torch

    try:
        import torchvision
    except RuntimeError:
        # The compiled operators did not load (they are of a build for GPUs beside a torch for CPUs, say), and for
        # want of these two, which it describes, torchvision does not import. No classification network calls them.
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
        import torchvision
    # RegNet computes its widths with tensors, which must have values where those of weights have none.
    params = torchvision.models.regnet.BlockParams
    params.from_init_params = on_cpu(torch, params.from_init_params)
    return torch, torchvision


def on_cpu(torch, function):
    def call(*args, **kwargs):
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return call


def build(name: str):
    """The network with the formula's weights, in float32."""
    from formula import parameter

    torch, torchvision = import_torchvision()
    has_auxiliary_heads = name in ("googlenet", "inception_v3")
    options = {"aux_logits": True, "transform_input": False, "init_weights": False} if has_auxiliary_heads else {}
    with torch.device("meta"):  # no time spent on weights to be replaced
        model = getattr(torchvision.models, name.removesuffix("_adaptive"))(weights=None, **options)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("num_batches_tracked"):
                value.zero_()
            else:
                value.copy_(torch.from_numpy(parameter(key, tuple(value.shape))))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout | torchvision.ops.StochasticDepth):
            module.p = 0.0
    return model


def answer(model, x) -> dict:
    """Outputs in both modes, and the statistics that the pass in training mode leaves."""
    import numpy as np

    torch, _ = import_torchvision()
    with torch.no_grad():
        results = {"eval": model.eval()(x)}
        outputs = model.train()(x)
    if isinstance(outputs, tuple):
        names = {"aux_logits": "train_aux1", "aux_logits1": "train_aux1", "aux_logits2": "train_aux2"}
        results["train"] = outputs.logits
        results |= {names[field]: getattr(outputs, field) for field in names if hasattr(outputs, field)}
    else:
        results["train"] = outputs
    results = {key: value.double().numpy() for key, value in results.items()}
    buffers = {key: value for key, value in model.named_buffers() if not key.endswith("num_batches_tracked")}
    if buffers:
        results["stat_names"] = np.array(list(buffers))
        results["stats"] = np.array([(float(v.double().mean()), float(v[0])) for v in buffers.values()])
    return results


def record(name: str) -> None:
    import numpy as np
    from formula import images

    torch, torchvision = import_torchvision()
    batch, size, width = (*MODELS[name], MODELS[name][1])[:3]
    x = torch.from_numpy(images(batch, size, width).transpose(0, 3, 1, 2).copy())
    model = build(name)
    single = answer(model, x)
    # The pass in training mode has changed the statistics, so `double` is of a network built anew.
    del model
    double = answer(build(name).double(), x.double())

    report = []
    for key in double.keys() - {"stat_names"}:
        error = np.abs(single[key] - double[key]).max() / np.abs(double[key]).max()
        report.append(f"{key} {error:.1e}")
        assert error < TOLERANCE, f"{name}: {key} is off by {error:.1e} in float32"
    print(f"{name}: {', '.join(sorted(report))}", flush=True)
    arrays = {key: value if key == "stat_names" else value.astype(np.float32) for key, value in double.items()}
    np.savez_compressed(
        FOLDER / f"{name}.npz",
        **arrays,
        batch=batch,
        size=size,
        width=width,
        torch=torch.__version__,
        torchvision=torchvision.__version__,
    )


if __name__ == "__main__":
    for model_name in sys.argv[1:] or MODELS:
        record(model_name)
