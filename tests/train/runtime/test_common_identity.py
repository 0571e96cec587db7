"""Processes of one run have equal flags and data, or none of them trains."""

import copy

import numpy as np
import pytest

from jaxcnn.data import from_arrays
from jaxcnn.errors import UsageError
from jaxcnn.layers import Dense, Flatten, Sequential
from jaxcnn.train import Config
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime import resume
from jaxcnn.train.runtime.plan import make_plan


@pytest.fixture(scope="module")
def plan():
    arrays = np.arange(16 * 4 * 4, dtype=np.uint8).reshape(16, 4, 4, 1), np.arange(16) % 2
    config = Config(batch_size=8, augment=(), workdir="/here", dataset="custom:arrays")
    return make_plan(config, CustomParts(model=Sequential([Flatten(), Dense(2)])), data=from_arrays(arrays, arrays))


def beside(monkeypatch, change):
    """Let process 2 of three have another description."""

    def gather(value):
        other = copy.deepcopy(value)
        if isinstance(value, dict):
            change(other)
        else:
            other = "another digest"
        return [value, value, other]

    monkeypatch.setattr(resume, "gather", gather)


def first_part(description):
    return next(iter(description["data"]["parts"].values()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x["config"].update(log_every=7), r"log_every: 20 -> 7\. Start all"),
        (lambda x: x["config"]["optimizer"].update(learning_rate=1.0), r"optimizer\.learning_rate: .* -> 1\.0\. Start"),
        (lambda x: first_part(x).update(images=15), r"has 15 images instead of 16\. Start all processes with the same"),
        (lambda x: first_part(x).update(contents="x"), "has other contents"),
        (lambda x: x["preprocessing"].update(mean=[0.5]), r"mean: .* -> \[0\.5\]"),
    ],
)
def test_a_process_that_differs_is_named(plan, monkeypatch, change, says):
    beside(monkeypatch, change)
    with pytest.raises(UsageError, match=f"^process 2 differs from process 0: .*{says}") as caught:
        resume._common_identity(plan)
    assert "\n" not in str(caught.value)


def test_many_differences_are_counted(plan, monkeypatch):
    fields = ["log_every", "steps", "epochs", "seed", "loss", "schedule", "patience", "monitor", "sampling", "task"]
    beside(monkeypatch, lambda x: x["config"].update(dict.fromkeys(fields, "other")))
    with pytest.raises(UsageError, match=r"; and 2 more\. Start all"):
        resume._common_identity(plan)


def test_paths_may_differ(plan, monkeypatch):
    seen = []
    monkeypatch.setattr(resume, "gather", lambda value: seen.append(value) or [value] * 2)
    resume._common_identity(plan)
    monkeypatch.setattr(resume, "differences", None)  # digests of processes with other paths are equal
    other = make_plan(
        Config(batch_size=8, augment=(), workdir="/there", progress=False, dataset="custom:arrays"),
        CustomParts(model=plan.model),
        data=plan.dataset,
    )
    resume._common_identity(other)
    assert len(seen) == 2
    assert seen[0] == seen[1]
