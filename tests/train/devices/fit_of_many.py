"""One of several processes that call `fit` with a callback; started by test_distributed.py.

    fit_of_many.py COORDINATOR PROCESSES INDEX FOLDER

Writes the splits and steps of the rows that this process's callback gets to `FOLDER/rows-INDEX.json`.
"""

import json
import sys
from pathlib import Path

import numpy as np

from jaxcnn.data import from_arrays
from jaxcnn.layers import Dense, Flatten, Sequential
from jaxcnn.train import Callback, Config, fit
from jaxcnn.train.devices import distributed


class Rows(Callback):
    """Keeps the split and the step of each row."""

    def __init__(self):
        self.seen = []

    def on_rows(self, run, rows):
        assert int(run.state.step) > 0
        self.seen += [(row["split"], row["step"]) for row in rows]


if __name__ == "__main__":
    coordinator, processes, index, folder = sys.argv[1:]
    distributed.initialize(coordinator, int(processes), int(index))
    labels = np.arange(40) % 2
    images = np.broadcast_to(100 * labels[:, None, None, None], (40, 4, 4, 1)).astype(np.uint8)
    data = from_arrays((images, labels), test=(images, labels), validation=(images, labels))
    config = Config(workdir=f"{folder}/run", steps=4, evaluate_every=2, batch_size=20, augment=(), progress=False)
    rows = Rows()
    fit(config, data=data, model=Sequential([Flatten(), Dense(2)]), callbacks=[rows])
    Path(folder, f"rows-{index}.json").write_text(json.dumps(rows.seen))
