"""The recipe `experiments/recipes/cifar10_speedrun.py` in PyTorch, with channels-last memory format.

    python benchmarks/baselines/speedrun_torch.py CASE DATA

CASE is a JSON object: see `CASE` of `benchmarks.speedrun`. DATA is a NumPy file with x_train, y_train, x_test, y_test.
The last line printed is a JSON object with the result. In bfloat16, the forward pass runs under autocast.

A file `state.pt` in the case's folder stores the run after each epoch. The same command goes on from there. Random
numbers of an epoch depend on the seed and the epoch only, so that the result is the same.
"""

# The type checker's environment does not contain this library.
# pyright: reportMissingImports=false

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = (0.491400, 0.482158, 0.446531), (0.247032, 0.243485, 0.261588)
WHITENED_IMAGES, WHITENING_EPSILON = 5000, 5e-4
PERIOD, DECAY, POWER = 5, 0.95**5, 3.0
BIAS_SCALE, BIAS_EPOCHS = 64.0, 3
EVALUATION_BATCH = 500


class Block(nn.Module):
    """Two 3x3 convolutions with identity kernels, the first one followed by max pooling."""

    def __init__(self, inputs, features):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.norm1, self.norm2 = (nn.BatchNorm2d(features, eps=1e-12, momentum=0.4) for _ in range(2))
        for conv in (self.conv1, self.conv2):
            nn.init.dirac_(conv.weight.data[: conv.in_channels])
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad = False

    def forward(self, x):
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Network(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad = False
        nn.init.zeros_(self.whiten.bias)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip((24, *widths), widths, strict=False)))
        self.head = nn.Linear(widths[-1], 10, bias=False)

    def forward(self, x):
        x = self.blocks(F.gelu(self.whiten(x)))
        return self.head(x.amax((2, 3)).float()) / 9


def whitening_kernel(images):
    """Return the eigenvectors of the patches' second moments, by their standard deviations, and their negatives."""
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    kernel = (vectors / (values + WHITENING_EPSILON).sqrt()).T.flip(0).reshape(12, 3, 2, 2)
    return torch.cat([kernel, -kernel]).float()


def normalized(images):
    """Return images uint8 `[N, H, W, C]` as normalized float32 `[N, C, H, W]` in channels-last format."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def shifted(images, generator, pixels):
    """Return each image moved by up to `pixels`, with reflection at the border."""
    count, _, height, width = images.shape
    padded = F.pad(images, (pixels,) * 4, mode="reflect")
    moves = torch.randint(0, 2 * pixels + 1, (2, count), generator=generator)
    result = torch.empty_like(images)
    for top in range(2 * pixels + 1):
        for left in range(2 * pixels + 1):
            chosen = ((moves[0] == top) & (moves[1] == left)).nonzero()[:, 0].to(images.device)
            result[chosen] = padded[chosen, :, top : top + height, left : left + width]
    return result


def rate(step, steps):
    """Return the factor on the learning rate: a triangle from 0.2 over 1 to 0.07."""
    rise = int(0.23 * steps)
    if step < rise:
        return 0.2 + 0.8 * step / rise
    return 1.0 - 0.93 * (step - rise) / (steps - rise)


def optimizer_of(model):
    """Return Nesterov's momentum for the mean loss; biases of normalization learn faster, with the same decay."""
    momentum = 0.85
    learning_rate, decay = 11.5 / (1 + 1 / (1 - momentum)), 0.0153 / 11.5
    biases = [p for name, p in model.named_parameters() if "norm" in name and p.requires_grad]
    others = [p for name, p in model.named_parameters() if "norm" not in name and p.requires_grad]
    groups = [
        {"params": biases, "lr": BIAS_SCALE * learning_rate, "weight_decay": decay / BIAS_SCALE},
        {"params": others, "lr": learning_rate, "weight_decay": decay},
    ]
    return torch.optim.SGD(groups, momentum=momentum, nesterov=True)


def averages_of(model):
    return {name: x.clone() for name, x in model.state_dict().items() if x.is_floating_point()}


def follow(averages, model, decay):
    """Move the slow network, and set the fast one to it."""
    with torch.no_grad():
        for name, x in model.state_dict().items():
            if x.is_floating_point():
                averages[name].lerp_(x, 1 - decay)
                x.copy_(averages[name])


class Run:
    """A run of a case, which can be stored and resumed after each epoch."""

    def __init__(self, case, data):
        self.case = case
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(case["seed"])
        self.model = Network(case["widths"])
        spaced = np.linspace(0, len(data["x_train"]) - 1, min(WHITENED_IMAGES, len(data["x_train"]))).astype(int)
        self.model.whiten.weight.data = whitening_kernel(normalized(torch.from_numpy(data["x_train"][spaced])))
        self.model = self.model.to(self.device, memory_format=torch.channels_last).train()
        self.forward = torch.compile(self.model) if case["compile"] else self.model
        self.optimizer = optimizer_of(self.model)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.images = torch.from_numpy(data["x_train"]).to(self.device)
        self.labels = torch.from_numpy(data["y_train"]).long().to(self.device)
        self.averages = averages_of(self.model)
        self.per_epoch = len(self.images) // case["batch_size"]
        self.steps = case["total_steps"] or math.ceil(case["epochs"] * self.per_epoch)
        first = torch.Generator().manual_seed(case["seed"])
        self.mirrored = torch.rand(len(self.images), generator=first) < 0.5
        self.step, self.epoch_seconds, self.first_seconds = 0, [], 0.0

    def autocast(self):
        dtype = getattr(torch, self.case["dtype"])
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def train_epoch(self):
        """Make the steps of one epoch, without the last images that do not fill a batch, and store their time."""
        epoch, size = self.step // self.per_epoch, self.case["batch_size"]
        generator = torch.Generator().manual_seed(1_000_003 * self.case["seed"] + epoch + 1)
        order = torch.randperm(len(self.images), generator=generator)
        mirrored = self.mirrored if epoch % 2 == 0 else ~self.mirrored
        self.model.whiten.bias.requires_grad = epoch < BIAS_EPOCHS
        started, made = time.perf_counter(), 0
        for start in range(0, self.per_epoch * size, size):
            if self.step >= self.steps:
                break
            self.train_step(order[start : start + size], mirrored, generator)
            made += 1
            if self.step == 1:
                self.wait()
                self.first_seconds = time.perf_counter() - started
                started, made = time.perf_counter(), 0
        self.wait()
        if made:
            self.epoch_seconds.append((time.perf_counter() - started, made))

    def train_step(self, chosen, mirrored, generator):
        which = mirrored[chosen].to(self.device)[:, None, None, None]
        images = normalized(self.images[chosen.to(self.device)])
        images = shifted(torch.where(which, images.flip(3), images), generator, 2)
        images = images.contiguous(memory_format=torch.channels_last)
        for group, learning_rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = learning_rate * rate(self.step, self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            logits = self.forward(images)
        F.cross_entropy(logits, self.labels[chosen.to(self.device)], label_smoothing=0.2).backward()
        self.optimizer.step()
        self.step += 1
        if self.step % PERIOD == 0:
            follow(self.averages, self.model, DECAY * (self.step / self.steps) ** POWER)
        if self.step == self.steps:
            follow(self.averages, self.model, 1.0)

    @torch.no_grad()
    def test(self, data):
        """Return the accuracy over six views of each test image."""
        self.model.eval()
        right = 0
        for start in range(0, len(data["x_test"]), EVALUATION_BATCH):
            images = normalized(torch.from_numpy(data["x_test"][start : start + EVALUATION_BATCH]).to(self.device))
            labels = torch.from_numpy(data["y_test"][start : start + EVALUATION_BATCH]).long().to(self.device)
            padded = F.pad(images, (1,) * 4, mode="reflect")
            height, width = images.shape[2:]
            views = [(0.5, images), *((0.25, padded[:, :, s : s + height, s : s + width]) for s in (0, 2))]
            logits = torch.zeros(len(images), 10, device=self.device)
            for weight, view in views:
                for side in (view, view.flip(3)):
                    with self.autocast():
                        logits = logits + weight * self.model(side.contiguous(memory_format=torch.channels_last))
            right += (logits.argmax(1) == labels).sum().item()
        return right / len(data["x_test"])

    def parts(self):
        return {"model": self.model, "optimizer": self.optimizer}

    def save(self, path):
        state = {name: part.state_dict() for name, part in self.parts().items()}
        own = {name: getattr(self, name) for name in ("averages", "step", "epoch_seconds", "first_seconds")}
        torch.save({**state, "own": own}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def load(self, path):
        stored = torch.load(path, map_location=self.device, weights_only=False)
        for name, part in self.parts().items():
            part.load_state_dict(stored[name])
        for name, value in stored["own"].items():
            setattr(self, name, value)


def main():
    case, data = json.loads(sys.argv[1]), dict(np.load(sys.argv[2]))
    run, path = Run(case, data), Path(case["folder"]) / "state.pt"
    if path.exists():
        run.load(path)
    while run.step < run.steps:
        run.train_epoch()
        run.save(path)
    started = time.perf_counter()
    accuracy = run.test(data)
    step_seconds = sum(seconds for seconds, _ in run.epoch_seconds) / max(1, sum(made for _, made in run.epoch_seconds))
    result = {
        "test_accuracy": accuracy,
        "steps": run.steps,
        "epoch_seconds": [seconds * run.per_epoch / made for seconds, made in run.epoch_seconds],
        "train_seconds": step_seconds * run.steps,
        "test_seconds": time.perf_counter() - started,
        # The first step, in which operations are chosen and compiled, without the time of a usual step.
        "compile_seconds": max(0.0, run.first_seconds - step_seconds),
        "versions": f"torch {torch.__version__}",
        "device_kind": torch.cuda.get_device_name() if run.device.type == "cuda" else "cpu",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
