"""Write the parameters and multiply-adds of all models: `python tests/models/make_counts.py`."""

import json
from pathlib import Path

from jaxcnn.analysis import summarize
from jaxcnn.models import create_model, list_models

FILE = Path(__file__).parents[2] / "jaxcnn" / "models" / "counts.json"


def counts(name: str) -> dict[str, int]:
    """Return the counts of a model with its default fields."""
    model = create_model(name)
    summary = summarize(model, model.image_shape)
    return {"params": summary.params, "macs": summary.macs}


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(counts(name))}" for name in list_models()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
