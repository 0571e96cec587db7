"""94 % on CIFAR-10 with Muon: Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024, and the author's later
`airbench94_muon.py`.

    jaxcnn train --config experiments/recipes/cifar10_speedrun_muon.py

Aims at 94.01 %, the mean of 200 runs of that script, in 8 epochs instead of 9.9. Muon updates the kernels of the
blocks, and their norm stays fixed. Momentum updates the classifier and the biases.

The script scales the logits by 1/256, and the initial weights of the classifier by 28. The classifier's learning rate
is 0.67 for a loss that is summed over 2,000 images. This recipe uses the mean loss, and its model scales the logits by
1/9; the equivalent learning rate is 1.66. As in the script, the bias of the whitening layer is trained for 3 epochs
only. Unlike in the script, its learning rate does not fall to 0 over these epochs.
"""

from jaxcnn.train import Config, OptimizerConfig, ScheduleConfig

BATCH_SIZE = 2000
LEARNING_RATE = 0.24
HEAD_RATE, BIAS_RATE = 0.67 * BATCH_SIZE * (9 / 256) ** 2, 0.053 * BATCH_SIZE

# The author adds the decay before the momentum, which multiplies it by 1 / (1 - momentum).
MOMENTUM = 0.85
WEIGHT_DECAY = 2e-6 * BATCH_SIZE / (1 - MOMENTUM)

BIASES, HEAD = r"(whiten|block\d+/norm\d+)/bias", "head"
FACTORS = {BIASES: BIAS_RATE / LEARNING_RATE, HEAD: HEAD_RATE / LEARNING_RATE}

config = Config(
    model="speedrun",
    dataset="cifar10",
    epochs=8,
    batch_size=BATCH_SIZE,
    whiten="whiten/kernel",
    freeze="whiten/kernel",
    freeze_after=("whiten/bias=3",),
    augment=("alternating_flip", "shift_reflect:2"),
    label_smoothing=0.2,
    optimizer=OptimizerConfig(
        "muon",
        learning_rate=LEARNING_RATE,
        momentum=0.6,
        other_momentum=MOMENTUM,
        exclude=HEAD,
        ns_steps=3,
        fixed_norm="block",
        weight_decay=WEIGHT_DECAY / LEARNING_RATE,
        decay_all=True,
        learning_rate_scales=tuple(f"{pattern}={factor}" for pattern, factor in FACTORS.items()),
        # A decay of the kernels would only scale them.
        weight_decay_scales=(*(f"{pattern}={1 / factor}" for pattern, factor in FACTORS.items()), "block=1e-9"),
    ),
    schedule=ScheduleConfig("linear"),
    tta="flip_shift",
    evaluate_every=1_000_000,
    checkpoint_every=50,
)
