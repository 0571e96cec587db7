"""Download weights from the Hugging Face hub: `hf:OWNER/NAME`, such as `hf:timm/resnet50.tv_in1k`."""

import contextlib
import re
from pathlib import Path

from jaxcnn.errors import UsageError

PREFIX = "hf:"
FILE = "model.safetensors"

# timm's description of the weights, with their preprocessing.
DESCRIPTION = "config.json"


def fetch(name: str) -> Path:
    """Return the local copy of the weights `hf:OWNER/NAME`. Download them unless they are cached.

    The description of the weights is stored in the same directory, if there is one.

    Raises:
      UsageError: if the name has another form, huggingface_hub is not installed, or the download fails.
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
    with contextlib.suppress(Exception):  # the weights can be used without it
        huggingface_hub.hf_hub_download(repository, DESCRIPTION)
    return path
