"""Evaluate metrics of your own: a mean over the examples, and a ratio of two sums."""

import sys

from jaxcnn.data import open_dataset
from jaxcnn.train import Config, Metric, fit

SHOES = 5  # classes 5, 7 and 9 are shoes


def margin(logits, labels):
    """Return the largest logit minus the second largest, [N]."""
    return logits.max(-1) - logits.sort(-1)[:, -2]


def shoes(logits, labels):
    """Return, for each example, whether it is a shoe, and whether it is found."""
    is_shoe = (labels >= SHOES) & (labels % 2 == 1)
    return {"all": is_shoe, "found": is_shoe & (logits.argmax(-1) == labels)}


recall = Metric(shoes, lambda sums, count: sums["found"] / max(sums["all"], 1))
data = open_dataset("fashion_mnist_mini", train_split="train[:300]", test_split="test[:503]")
config = Config(workdir=sys.argv[1], epochs=2, batch_size=32, checkpoint_every=4, progress=False)
result = fit(config, data=data, metrics={"margin": margin, "shoe_recall": recall})
print(f"margin {result.metrics['margin']:.2f}, recall of shoes {result.metrics['shoe_recall']:.1%}")
print(f"{result.test_examples} test images")
