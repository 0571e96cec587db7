"""`python -m jaxcnn.measure._child`: measures the case on standard input and tells of it in lines of JSON.

Each line is `{"doing": ...}`, and the last `{"row": ...}` or, for a case that cannot work, `{"mistake": ...}`.
Whatever else JAX, XLA or a driver prints goes to standard error.
"""

import json
import os
import sys

import jax

from jaxcnn import startup
from jaxcnn.errors import UsageError
from jaxcnn.measure.case import Case
from jaxcnn.measure.row import measure_case


def main() -> None:
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(**what: object) -> None:
        told.write(json.dumps(what) + "\n")

    case = Case(**json.load(sys.stdin))
    startup.settle(case.batch_values)
    if (
        case.devices
        and case.devices > 1
        and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", "")
    ):
        jax.config.update("jax_num_cpu_devices", case.devices)  # of no effect on anything but CPUs
    try:
        tell(row=measure_case(case, report=lambda doing: tell(doing=doing)))
    except UsageError as error:
        tell(mistake=str(error))


if __name__ == "__main__":
    main()
