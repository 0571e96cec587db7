"""Describe one compilation as JSON values (a configuration, image shapes, a target), and run it in a fresh process."""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jaxcnn.aot.images import Images
from jaxcnn.aot.report import Report, failed
from jaxcnn.aot.targets import Target, environment, parse_target
from jaxcnn.measure._isolate import run_child
from jaxcnn.train import Config
from jaxcnn.train.config import to_dict

CHILD = (sys.executable, "-m", "jaxcnn.aot._child")

Effort = Literal["O1", "default"]


@dataclass(frozen=True)
class Job:
    """One compilation of a training step for one target.

    Attributes:
      target: name of the target, such as "v5e:2x4".
      config: the configuration, as a dict from `jaxcnn.train.config.to_dict`.
      images: shapes and number of the images, as a dict from `Images.to_dict`.
      effort: optimization level of the TPU compiler: "O1", which is quick, or "default".
    """

    target: str
    config: dict[str, Any]
    images: dict[str, Any]
    effort: Effort = "O1"

    @staticmethod
    def of(target: Target, config: Config, images: Images, effort: Effort) -> "Job":
        return Job(target.name, to_dict(config), images.to_dict(), effort)

    def environment(self) -> dict[str, str]:
        """Return the environment variables that the compiling process needs."""
        target = parse_target(self.target)
        # The environment variable works with all supported versions of jax. jax 0.10.2 has no compiler option for the
        # optimization level.
        level = {"JAX_OPTIMIZATION_LEVEL": "O1"} if target.platform == "tpu" and self.effort == "O1" else {}
        return {**environment(target), **level}

    def run(self, show: Callable[[str], None] = lambda stage: None, timeout: float | None = None) -> Report:
        """Compile the step in a fresh process, and return the report.

        Args:
          show: function that is called with the current stage, such as "compiling".
          timeout: time limit in seconds.

        Raises:
          UsageError: if the configuration or the target is invalid.
        """
        found, error = run_child(
            CHILD, dataclasses.asdict(self), "report", show, timeout=timeout, environment=self.environment()
        )
        return self.failure(error or "no result") if found is None else Report.from_dict(found)

    def failure(self, error: str) -> Report:
        """Return the report of a failed compilation, with the given `error`."""
        config = self.config
        parallel = config["parallel"]
        like = {
            "model": config["model"],
            "dtype": config["dtype"],
            "parallel": "shard_map" if parallel in ("auto", "pmap") else parallel,
            "batch_size": config["batch_size"],
            "image_shape": Images.from_dict(self.images).batch_shape,
        }
        return failed(self.target, like, error)
