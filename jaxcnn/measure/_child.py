"""Read a case from standard input, measure it, and write the row to standard output: `python -m jaxcnn.measure._child`.

The output is one JSON object per line. `{"doing": ...}` reports progress. The last line is `{"row": ...}`, or
`{"mistake": ...}` for an invalid case. Output of JAX, XLA and drivers goes to standard error.
"""

import json
import os
import sys

import jax

from jaxcnn import startup
from jaxcnn._parent import end_with_parent
from jaxcnn.errors import UsageError
from jaxcnn.measure.case import Case
from jaxcnn.measure.row import measure_case


def main() -> None:
    end_with_parent()
    # Drivers may write to file descriptor 1, which would corrupt the JSON lines.
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(**message: object) -> None:
        messages.write(json.dumps(message) + "\n")

    case = Case(**json.load(sys.stdin))
    startup.settle(case.batch_values)
    if (
        case.devices
        and case.devices > 1
        and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", "")
    ):
        jax.config.update("jax_num_cpu_devices", case.devices)  # affects only the CPU backend
    try:
        send(row=measure_case(case, report=lambda stage: send(doing=stage)))
    except UsageError as error:
        send(mistake=str(error))


if __name__ == "__main__":
    main()
