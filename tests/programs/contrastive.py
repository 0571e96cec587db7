"""Learn an encoder without labels: two random views of each image, and the loss of SimCLR."""

import sys

from experiments.tasks.contrastive import Contrastive, Projected
from jaxcnn.data import open_dataset
from jaxcnn.models import create_model
from jaxcnn.train import Config, OptimizerConfig, fit

data = open_dataset("fashion_mnist_mini", train_split="train[:300]", test_split="test[:503]")
model = Projected(create_model("lenet5", num_classes=64), features=32)
adam = OptimizerConfig("adam", learning_rate=1e-3)
config = Config(workdir=sys.argv[1], epochs=2, batch_size=32, optimizer=adam, checkpoint_every=4, progress=False)
result = fit(config, data=data, task=Contrastive(temperature=0.2), model=model)
print(f"similarity of two views {result.metrics['similarity']:.2f}")
print(f"effective rank {result.metrics['effective_rank']:.1f} of {result.test_examples} test images")
