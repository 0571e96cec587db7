"""Mistakes in a task of the user's are one line, before anything is compiled or written."""

from dataclasses import dataclass

import numpy as np
import pytest

from jaxcnn.data import from_arrays
from jaxcnn.errors import UsageError
from jaxcnn.layers import Dense, GlobalAvgPool, Sequential
from jaxcnn.train import Config, Task
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime.plan import make_plan

IMAGES = np.zeros((8, 12, 12, 1), np.uint8)
CONFIG = Config(steps=2, batch_size=8, progress=False)
NET = Sequential([GlobalAvgPool(), Dense(1)])


@dataclass(frozen=True)
class Regression(Task):
    key: str = "label"

    def loss(self, model, variables, batch, rngs):
        errors = (model.apply(variables, batch["image"] / 255.0, train=True)[:, 0] - batch[self.key]) ** 2
        return errors.mean(), {}, {"loss": errors}

    def evaluate(self, model, variables, batch):
        return {"loss": (model.apply(variables, batch["image"] / 255.0, train=False)[:, 0] - batch[self.key]) ** 2}


def data_of(**arrays):
    arrays = {name: array[: len(IMAGES)] for name, array in arrays.items()}
    return from_arrays(arrays, arrays)


def plan(task, model=NET, **arrays):
    return make_plan(CONFIG, CustomParts(task=task, model=model), data=data_of(**arrays))


def test_a_task_with_the_keys_of_the_data_is_accepted():
    assert plan(Regression("age"), image=IMAGES, age=np.ones(8, np.float32)).monitor == "loss"


def test_a_key_that_the_batch_does_not_have_is_named_with_the_closest_one():
    with pytest.raises(UsageError) as caught:
        plan(Regression("ages"), image=IMAGES, age=np.ones(8, np.float32))
    assert str(caught.value) == (
        "task Regression reads the key 'ages', which its batch does not have. "
        "Batches of the data have the keys 'age', 'image'. Did you mean 'age'?"
    )


def test_a_missing_key_is_named_before_the_model_is_initialized():
    class Reconstruction(Regression):
        def init(self, model, rngs, batch):
            return model.init(rngs, batch["picture"], train=True)

    with pytest.raises(UsageError, match="task Reconstruction reads the key 'picture', which its batch does not have"):
        plan(Reconstruction("age"), image=IMAGES, age=np.ones(8, np.float32))


def test_a_key_error_of_something_else_stays():
    class Broken(Regression):
        def evaluate(self, model, variables, batch):
            return {"loss": {}[3]}

    with pytest.raises(KeyError, match="3"):
        plan(Broken("age"), image=IMAGES, age=np.ones(8, np.float32))


def test_a_class_in_place_of_an_instance_is_refused():
    with pytest.raises(UsageError, match=r"task is the class Regression\. Pass an instance: task=Regression\(\.\.\.\)"):
        plan(Regression, image=IMAGES)
    with pytest.raises(UsageError, match=r"model is the class Dense\. Pass an instance"):
        plan(Regression(), model=Dense, image=IMAGES)


def test_an_object_that_is_no_task_is_refused():
    with pytest.raises(UsageError, match=r"task must be an instance of jaxcnn\.train\.Task, got dict"):
        plan({}, image=IMAGES)


def test_a_named_model_needs_data_with_classes():
    with pytest.raises(
        UsageError, match=r"the data has no classes, so the number of outputs of model 'lenet5' is unknown"
    ):
        plan(Regression("age"), model=None, image=IMAGES, age=np.ones(8, np.float32))
