"""One compilation: a configuration, the images, and a target; as JSON values, for a process of its own."""

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
    """One compilation.

    Attributes:
      target: name of the target.
      config: the configuration, as `jaxcnn.train.config.to_dict` returns it.
      images: the images, as `Images.to_dict` returns them.
      effort: "O1", XLA's quick optimization level for TPUs, or "default".
    """

    target: str
    config: dict[str, Any]
    images: dict[str, Any]
    effort: Effort = "O1"

    @staticmethod
    def of(target: Target, config: Config, images: Images, effort: Effort) -> "Job":
        return Job(target.name, to_dict(config), images.to_dict(), effort)

    def environment(self) -> dict[str, str]:
        """Return the environment variables of the process that compiles."""
        target = parse_target(self.target)
        # The variable works with all supported versions of jax; 0.10.2 does not take the level as a compiler option.
        level = {"JAX_OPTIMIZATION_LEVEL": "O1"} if target.platform == "tpu" and self.effort == "O1" else {}
        return {**environment(target), **level}

    def run(self, show: Callable[[str], None] = lambda stage: None, timeout: float | None = None) -> Report:
        """Compile in a fresh process, and return the report.

        Args:
          show: called with the current stage, such as "compiling".
          timeout: time limit in seconds.

        Raises:
          UsageError: if the configuration or the target cannot work.
        """
        found, error = run_child(
            CHILD, dataclasses.asdict(self), "report", show, timeout=timeout, environment=self.environment()
        )
        return self.failure(error or "no result") if found is None else Report.from_dict(found)

    def failure(self, error: str) -> Report:
        """Return the report of a compilation that failed."""
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
