"""Download weights from the Hugging Face hub: `hf:OWNER/NAME`, such as `hf:timm/resnet50.tv_in1k`."""

import contextlib
import re
from pathlib import Path

from jaxcnn.errors import UsageError

PREFIX = "hf:"
FILE = "model.safetensors"

# File in which timm describes the weights and their preprocessing.
DESCRIPTION = "config.json"


def fetch(name: str) -> Path:
    """Return the local path of the weights `hf:OWNER/NAME`. Download the weights if they are not cached.

    If the repository contains a `config.json`, which describes the weights, this file is downloaded to the same folder.

    Raises:
      UsageError: if `name` does not have the form `hf:OWNER/NAME`, if huggingface_hub is not installed, or if the
        download fails.
    """
    repository = name.removeprefix(PREFIX)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UsageError(
            f"invalid name of hub weights: {name!r}. Use the form hf:OWNER/NAME, such as hf:timm/resnet50.tv_in1k."
        )
    try:
        import huggingface_hub  # type: ignore[import-not-found]
    except ImportError:
        raise UsageError(f"cannot download {name} without huggingface_hub. Run pip install 'jaxcnn[hub]'.") from None
    try:
        path = Path(huggingface_hub.hf_hub_download(repository, FILE))
    except Exception as error:  # network, hub and disk errors have no common type
        reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
        raise UsageError(f"cannot download {name}: {reason}. Try again, or give a local file.") from None
    with contextlib.suppress(Exception):  # the weights can be used without the description
        huggingface_hub.hf_hub_download(repository, DESCRIPTION)
    return path
