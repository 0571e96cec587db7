"""Read a job from standard input, compile it, and write the report to standard output: `python -m jaxcnn.aot._child`.

The output has one JSON object per line. `{"doing": ...}` reports progress. The last line is `{"report": ...}`, or
`{"mistake": ...}` for an invalid job.
"""

import json
import os
import sys
from collections.abc import Callable

import jax

from jaxcnn import startup
from jaxcnn._parent import end_with_parent
from jaxcnn.aot import report as reports
from jaxcnn.aot.images import Images
from jaxcnn.aot.job import Job
from jaxcnn.aot.program import compile_plan, plan_of
from jaxcnn.aot.report import Report
from jaxcnn.aot.targets import parse_target, topology_devices
from jaxcnn.errors import UsageError
from jaxcnn.train.config import from_dict


def run(job: Job, show: Callable[[str], None] = lambda stage: None) -> Report:
    """Compile the training step of a job in this process, and return the report.

    The process must have the environment variables of `Job.environment`.

    Raises:
      UsageError: if the configuration or the target is invalid.
    """
    target = parse_target(job.target)
    show("building the step")
    plan = plan_of(from_dict(job.config), Images.from_dict(job.images), topology_devices(target))
    show("compiling")
    try:
        program = compile_plan(plan)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return reports.out_of_memory(target, plan, str(error))
    show("reading the program")
    return reports.measure(target, program)


def main() -> None:
    end_with_parent()
    # The compilers may write to file descriptor 1, which would corrupt the JSON lines.
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(**message: object) -> None:
        messages.write(json.dumps(message) + "\n")

    try:
        job = Job(**json.load(sys.stdin))
        if parse_target(job.target).platform == "cpu":
            startup.settle()  # `jaxcnn train` also does this
        found = run(job, lambda stage: send(doing=stage))
        send(report=found.to_dict())
    except UsageError as error:
        send(mistake=str(error))


if __name__ == "__main__":
    main()
