"""Worker process that trains networks for its parent process: `python -m jaxcnn.train.many._worker`.

The worker reads pickled objects from standard input: a `Job`, and then one `Network` at a time. For each network, the
worker writes a JSON line to standard output. The line is `{"done": true}`, or has the key `diverged`, `mistake`,
`failed` or `interrupted` with a message. The worker ends when standard input is closed, so that it never outlives its
parent.
"""

import json
import os
import pickle
import queue
import sys
import threading
import traceback
from dataclasses import dataclass
from typing import Any

import jax

from jaxcnn import startup
from jaxcnn._parent import end_with_parent
from jaxcnn.data import Dataset
from jaxcnn.errors import RunError, UsageError
from jaxcnn.train.api import train_plan
from jaxcnn.train.many.groups import Network, Plans
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime.integrity import DivergedError
from jaxcnn.train.runtime.signals import InterruptedRunError


@dataclass(frozen=True)
class Job:
    """Arguments that are equal for all networks of a worker.

    Attributes:
      parts: custom parts that were passed to `fit_many`, such as a model.
      data: the dataset that was passed to `fit_many`, or None.
      callbacks: the callbacks that were passed to `fit_many`.
      cores: ids of the CPU cores that the worker uses.
      devices: number of CPU devices that JAX creates in the worker.
      options: pairs of names and values of JAX options.
      settles: whether to apply the defaults of `jaxcnn.startup`.
    """

    parts: CustomParts
    data: Dataset | None
    callbacks: tuple[Any, ...]
    cores: tuple[int, ...]
    devices: int
    options: tuple[tuple[str, Any], ...]
    settles: bool


def main() -> None:
    end_with_parent()
    # Libraries may write to file descriptor 1, which would corrupt the JSON lines.
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(**message: object) -> None:
        messages.write(json.dumps(message) + "\n")

    try:
        job: Job = pickle.load(sys.stdin.buffer)
    except Exception as error:
        send(
            mistake=f"a model, task, optimizer, dataset or callback cannot be loaded in another process: {error}. "
            "Define it in a module that can be imported."
        )
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cores)
    if job.settles:
        startup.settle()
    for name, value in job.options:
        jax.config.update(name, value)
    if job.devices > 1:
        jax.config.update("jax_num_cpu_devices", job.devices)
    plans = Plans(job.parts, job.data)
    networks: queue.SimpleQueue[Network] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(networks,), daemon=True).start()
    while True:
        send(**_train(networks.get(), plans, job))


def _receive(networks: "queue.SimpleQueue[Network]") -> None:
    """Read networks from standard input into a queue. End the process when standard input is closed."""
    while True:
        try:
            networks.put(pickle.load(sys.stdin.buffer))
        except EOFError:
            os._exit(0)


def _train(network: Network, plans: Plans, job: Job) -> dict[str, Any]:
    """Train one network, and return the message to send to the parent process."""
    try:
        train_plan(plans.plan(network), callbacks=job.callbacks)
    except DivergedError as error:
        return {"diverged": str(error)}
    except InterruptedRunError as error:
        return {"interrupted": str(error)}
    except UsageError as error:
        return {"mistake": str(error)}
    except RunError as error:
        return {"failed": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return {"done": True}


if __name__ == "__main__":
    main()
