"""Write the table of published weights: `python tests/weights/golden/make_ids.py`.

Needs torchvision and timm. Last run with torchvision 0.28.0 and timm 1.0.31. The table has names and numbers only.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "tests" / "models" / "golden"))

FILE = Path(__file__).parents[3] / "jaxcnn" / "weights" / "published.json"

# Transformers, and models for videos, have no counterpart in jaxcnn.
NOT_OURS = ("vit_", "swin_", "maxvit_")

OUR_NAMES = {"googlenet": "googlenet_bn"}


def preprocessing(mean, std, size, resize, interpolation, crop_fraction=None) -> dict:
    size = list(size)
    fraction = crop_fraction or size[0] / resize
    return {
        "mean": list(mean),
        "std": list(std),
        "image_size": size,
        "resize": resize,
        "crop_fraction": fraction,
        "interpolation": interpolation,
        "background": "white",
    }


def of_torchvision() -> dict[str, dict]:
    from make import import_torchvision

    _, torchvision = import_torchvision()
    table = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        if name.startswith(NOT_OURS):
            continue
        for weights in torchvision.models.get_model_weights(name):
            prepare = weights.transforms()
            mean, std = prepare.mean, prepare.std
            if name in ("googlenet", "inception_v3"):
                # torchvision's `transform_input` undoes this normalization in the model and applies (p - 0.5) / 0.5.
                mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
            (crop,), (resize,) = prepare.crop_size, prepare.resize_size
            table[f"torchvision:{type(weights).__name__}.{weights.name}"] = {
                "model": OUR_NAMES.get(name, name),
                "file": weights.url.rpartition("/")[2],
                "classes": 1000,
                "accuracy": weights.meta["_metrics"]["ImageNet-1K"]["acc@1"],
                "preprocessing": preprocessing(mean, std, (crop, crop), resize, prepare.interpolation.value),
            }
    return table


def of_timm() -> dict[str, dict]:
    import timm

    from jaxcnn.weights.names import TIMM_ARCHITECTURES

    table = {}
    for name, ours in TIMM_ARCHITECTURES.items():
        for pretrained in timm.list_pretrained(f"{name}.*"):
            config = timm.get_pretrained_cfg(pretrained).to_dict()
            if not config.get("hf_hub_id") or config["input_size"][0] != 3:
                continue
            size, squash = config["input_size"][1:], config.get("crop_mode") == "squash"
            table[f"timm:{pretrained}"] = {
                "model": ours,
                "repository": config["hf_hub_id"] + (pretrained if config["hf_hub_id"].endswith("/") else ""),
                "classes": config["num_classes"],
                "preprocessing": preprocessing(
                    *(config["mean"], config["std"], size, "stretch" if squash else "shorter"),
                    *(config["interpolation"], config["crop_pct"]),
                ),
            }
    return table


if __name__ == "__main__":
    found = dict(sorted({**of_torchvision(), **of_timm()}.items()))
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in found.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
