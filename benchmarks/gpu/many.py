"""1, 10 and 100 networks at once; the part `many`."""

from typing import Any

from benchmarks.gpu.run import TIME_LIMIT, Run
from benchmarks.many import TITLE, measure, to_markdown, with_costs
from benchmarks.results import write

# One network in turns comes first: the costs of the others are relative to it.
CASES = ((1, "turns"), (1, "together"), (10, "together"), (100, "together"), (10, "turns"))
TINY = ((1, "turns"), (2, "together"))


def many(run: Run) -> list[dict[str, Any]]:
    """Train LeNet-5 for an epoch of synthetic images, and return the rows of `benchmarks.many`."""
    rows: list[dict[str, Any]] = []
    for networks, how in TINY if run.tiny else CASES:
        case = {"model": "lenet5", "batch_size": 64, "epochs": 0.02 if run.tiny else 1.0, "data": "synthetic"}
        if run.has_time:
            rows.append(measure({**case, "networks": networks, "how": how}, run.seconds_left))
        else:
            rows.append({**case, "networks": networks, "how": how, "error": TIME_LIMIT})
        print(f"  {networks} {how}: {rows[-1]['error'] or format(rows[-1]['seconds'], '.1f') + ' s'}", flush=True)
        write(run.folder, TITLE, with_costs(rows), to_markdown(with_costs(rows)))
    return rows
