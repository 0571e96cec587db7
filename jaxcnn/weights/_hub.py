"""Weights by their name on the Hugging Face hub: `hf:OWNER/NAME`, such as `hf:timm/resnet50.tv_in1k`."""

import re
from pathlib import Path

from jaxcnn.errors import UsageError

PREFIX = "hf:"
FILE = "model.safetensors"


def fetch(name: str) -> Path:
    """The local copy of the file that `hf:OWNER/NAME` stands for, downloaded unless it is there already.

    Raises:
      UsageError: a name of another form, huggingface_hub is not installed, or the file cannot be had.
    """
    repository = name.removeprefix(PREFIX)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UsageError(f"{name!r} is not of the form hf:OWNER/NAME, such as hf:timm/resnet50.tv_in1k")
    try:
        import huggingface_hub  # type: ignore[import-not-found]
    except ImportError:
        raise UsageError(f"{name} is downloaded by huggingface_hub; pip install 'jaxcnn[hub]'") from None
    try:
        return Path(huggingface_hub.hf_hub_download(repository, FILE))
    except Exception as error:  # of the network, of the hub, of the disk: no common type
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UsageError(f"{name} cannot be downloaded ({reason}); a file that is here already can be given") from None
