"""The process of one library: `python worker.py MODULE TASK`; it needs nothing but the library itself.

It tells on standard output, in lines of JSON, when its step is compiled, and then, for each number that it reads,
makes so many steps back to back, waits for the last one's result, and tells how long a step took.
"""

import importlib
import json
import os
import sys
import time


def main() -> None:
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module, task = sys.argv[1], json.loads(sys.argv[2])

    started = time.perf_counter()
    try:
        # A peer's `build` returns the step (a call makes one update and returns its loss, perhaps not there yet), what
        # waits for a loss and makes it a float, the number of trainable parameters, the versions and the device.
        step, wait, about = importlib.import_module(module).build(task)
        first = wait(step())
        compile_seconds = time.perf_counter() - started
        wait(step())
        started = time.perf_counter()
        wait(step())
        told.write(
            json.dumps(
                {
                    **about,
                    "compile_seconds": compile_seconds,
                    "estimate": time.perf_counter() - started,
                    "first_loss": first,
                }
            )
            + "\n"
        )
        for line in sys.stdin:
            count = int(line)
            started = time.perf_counter()
            for _ in range(count - 1):
                step()
            wait(step())
            told.write(json.dumps({"seconds": (time.perf_counter() - started) / count}) + "\n")
    except Exception as error:
        lines = str(error).strip().splitlines()
        told.write(json.dumps({"error": f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]}) + "\n")


if __name__ == "__main__":
    main()
