"""Run the training step or forward pass of one library: `python worker.py MODULE TASK`, where TASK is a JSON object.

The process communicates in lines of JSON on standard output. It first reports that the step is compiled. Then, for each
number N on standard input, it runs N steps back to back, waits for the last result, and reports the seconds per step.
Errors are reported as `{"error": ...}`. Only the library itself must be installed.
"""

import importlib
import json
import os
import sys
import time


def main() -> None:
    # Libraries may write to file descriptor 1, which would corrupt the JSON lines.
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module, task = sys.argv[1], json.loads(sys.argv[2])

    def send(message: dict) -> None:
        messages.write(json.dumps(message) + "\n")

    started = time.perf_counter()
    try:
        # `build` returns:
        #   step: a function that runs one training step or forward pass and returns its loss or logits, which may
        #     still be being computed
        #   wait: a function that waits for such a result and returns the loss or a logit as a float
        #   about: versions and, optionally, the number of parameters and the device
        step, wait, about = importlib.import_module(module).build(task)
        first_loss = wait(step())
        compile_seconds = time.perf_counter() - started
        wait(step())
        started = time.perf_counter()
        wait(step())
        estimate = time.perf_counter() - started
        send({**about, "compile_seconds": compile_seconds, "estimate": estimate, "first_loss": first_loss})
        for line in sys.stdin:
            count = int(line)
            started = time.perf_counter()
            for _ in range(count - 1):
                step()
            wait(step())
            send({"seconds": (time.perf_counter() - started) / count})
    except NotImplementedError as error:  # the library has no such computation, and says so in a few words
        send({"error": str(error)[:300]})
    except Exception as error:
        lines = str(error).strip().splitlines()
        send({"error": f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]})


if __name__ == "__main__":
    main()
