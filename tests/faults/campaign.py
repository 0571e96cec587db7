"""Many SIGKILLs at random moments, and a report: `python tests/faults/campaign.py --kills 100 --seed 0`.

The report goes to `tests/faults/campaign.json`; exit status 1 if anything differs from the run that nobody disturbed.
"""

import argparse
import collections
import json
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from killing import Campaign, Worker


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs in all (default: 100)")
    parser.add_argument("--each", type=int, default=5, help="most of them in one run (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    started = time.time()
    with tempfile.TemporaryDirectory() as folder, Worker(Path(folder) / "cache") as worker:
        campaign = Campaign(worker, Path(folder), args.seed)
        campaign.straight()
        while len(campaign.kills) < args.kills:
            campaign.kill_until_done(min(args.each, args.kills - len(campaign.kills)))
            print(f"{len(campaign.kills)} kills in {campaign.runs} runs, {len(campaign.differences)} differences")
    fell = collections.Counter(kill["fell"] for kill in campaign.kills)
    report = {
        "command": f"python tests/faults/campaign.py --kills {args.kills} --each {args.each} --seed {args.seed}",
        "kills": len(campaign.kills),
        "runs": campaign.runs,
        "seed": args.seed,
        "differences": campaign.differences,
        "fell": dict(fell.most_common()),
        "seconds": round(time.time() - started),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "jaxlib", "flax", "orbax-checkpoint")},
        },
        "each_kill": campaign.kills,
    }
    head, each = json.dumps({**report, "each_kill": []}, indent=2), ",\n    ".join(map(json.dumps, campaign.kills))
    args.report.write_text(head.replace('"each_kill": []', f'"each_kill": [\n    {each}\n  ]') + "\n")
    print(f"{args.report}: {len(campaign.kills)} kills, {len(campaign.differences)} differences")
    return 1 if campaign.differences else 0


if __name__ == "__main__":
    sys.exit(main())
