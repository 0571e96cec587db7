"""Write one page with all results and their plots, and the table of baselines in README.md, from the result files.

    python -m benchmarks.report                    write benchmarks/results/README.md
    python -m benchmarks.report --readme           write it, and the table between the markers in README.md
    python -m benchmarks.report --readme --check   write nothing; exit status 1 if the table in README.md is outdated

The markers in README.md are the lines `<!-- benchmarks:begin -->` and `<!-- benchmarks:end -->`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.libraries import PEERS
from benchmarks.peers.result_tables import WORK, dtype_of, group, mode_of, ratio, tasks
from benchmarks.results import RESULTS
from jaxcnn.measure.columns import format_value

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"

# Order of the suites on the page. Other folders follow in alphabetical order.
ORDER = (
    "peers",
    "batch_sizes",
    "devices",
    "compile",
    "input",
    "loop_overhead",
    "time_to_accuracy",
    "many",
    "transformations",
    "precision/accuracy",
    "precision/gradients",
    "gpu",
)


def load(results: Path) -> dict[str, dict[str, Any]]:
    """Return the contents of every `rows.json` by the name of its folder, in the order of the page."""
    files = results.rglob("rows.json")
    documents = {str(file.parent.relative_to(results)): json.loads(file.read_text()) for file in files}
    names = sorted(documents, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    return {name: documents[name] for name in names}


def page(results: Path) -> str:
    """Return the page with all results in Markdown. Links to plots are relative to the folder `results`."""
    parts = [
        "# Results",
        "Written by `python -m benchmarks.report` from the result files in these folders. Run a suite or "
        "`python -m benchmarks.all` to measure again. Each `rows.json` contains all columns, all samples and, for each "
        "row, the command that repeats the measurement.",
    ]
    for name, document in load(results).items():
        folder = results / name
        if (folder / "rows.md").exists():
            table = (folder / "rows.md").read_text().split("\n", 1)[1].strip()
        else:  # a suite that writes no Markdown
            table = f"```json\n{(folder / 'rows.json').read_text().strip()}\n```"
        plots = [f"![{file.stem}]({name}/{file.name})" for file in sorted(folder.glob("*.png"))]
        parts += [f"## {document.get('title', name)}", f"{document.get('date', '')} · `{name}/`", table, *plots]
    return "\n\n".join(part for part in parts if part) + "\n"


def readme_table(results: Path) -> str:
    """Return the README's tables: throughput of jaxcnn, and the relative times of the baseline libraries.

    Raises:
      SystemExit: if there are no results of the suite `peers`.
    """
    documents = load(results)
    if "peers" not in documents:
        raise SystemExit(f"folder has no results: {results}/peers. Run python -m benchmarks.peers first.")
    suites = [document for name, document in documents.items() if name.startswith("peers")]
    rows = [row for document in suites for row in document["rows"]]
    lines = []
    for mode, (baseline, *_) in PEERS.items():
        some = [row for row in rows if mode_of(row) == mode]
        if some:
            lines += [*_relative_times(some, WORK[mode], baseline.name), ""]
    devices = sorted({r["device_kind"] for r in rows if r.get("device_kind")})
    versions = sorted({v.strip() for r in rows for v in r.get("versions", "").split(",") if v.strip()})
    dates = sorted({document["date"][:10] for document in suites})
    lines.append(
        "Each column after `jaxcnn` shows the step time of a library divided by the step time of jaxcnn. A value "
        "above 1 means that jaxcnn is faster. The libraries run in turns for several rounds, and each value is the "
        f"median over the rounds. All values were measured on {', '.join(devices)}, {', '.join(dates)}, with "
        f"{', '.join(versions)}. "
        "To repeat the measurements of the table, run `python -m benchmarks.peers`. See also "
        "[all results](benchmarks/results/README.md)."
    )
    return "\n".join(lines)


def _relative_times(rows: list[dict[str, Any]], work: str, baseline: str) -> list[str]:
    """Return a table of one mode: a row for each task, and a column for each library."""
    names = list(dict.fromkeys(row["peer"] for row in rows if row["peer"] != baseline))
    lines = [f"| {work}: model, batch x image size, dtype | {baseline}, images/s | " + " | ".join(names) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(names))
    for task in tasks(rows):
        same = group(rows, task)
        ours = next((row for row in same if row["peer"] == baseline), {})
        throughput = format_value(ours, "images_per_second") if "images_per_second" in ours else "failed"
        height, width, _ = same[0]["image_shape"]
        ratios = " | ".join(ratio(same, name) for name in names)
        size = f"{same[0]['batch_size']} x {height}x{width}"
        lines.append(f"| {same[0]['model']}, {size}, {dtype_of(same[0])} | {throughput} | {ratios} |")
    return lines


def with_table(text: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    """Return the text of the README with `table` between two markers.

    Raises:
      SystemExit: if the text does not contain both markers in this order.
    """
    before, is_begun, rest = text.partition(begin)
    _, is_ended, after = rest.partition(end)
    if not is_begun or not is_ended:
        raise SystemExit(f"markers are missing from the README. Add the lines {begin} and {end}, in this order.")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    parser.add_argument(
        "--readme", nargs="?", type=Path, const=Path("README.md"), help="file with the markers (default: README.md)"
    )
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if the table is outdated")
    arguments = parser.parse_args(args)
    if not arguments.results.is_dir():
        parser.error(f"results folder does not exist: {arguments.results}. Run a suite first.")
    if not arguments.check:
        (arguments.results / "README.md").write_text(page(arguments.results))
        print(f"Report written to {arguments.results / 'README.md'}")
    if arguments.readme:
        text = arguments.readme.read_text()
        new = with_table(text, readme_table(arguments.results))
        if arguments.check:
            if new != text:
                print(
                    f"table is outdated: {arguments.readme}. Run python -m benchmarks.report --readme.", file=sys.stderr
                )
                return 1
        else:
            arguments.readme.write_text(new)
            print(f"Table written to {arguments.readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
