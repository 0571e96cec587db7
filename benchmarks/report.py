"""One page of all results, with their pictures, and the README's table, both made from the result files alone.

    python -m benchmarks.report                    writes benchmarks/results/README.md
    python -m benchmarks.report --readme           and the table between the marks in README.md
    python -m benchmarks.report --readme --check   changes nothing; exit status 1 if the README's table is another one

The marks in the README are the lines `<!-- benchmarks:begin -->` and `<!-- benchmarks:end -->`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS
from jaxcnn.measure.columns import shown

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"

# In the order of the page; folders that are not named here follow by the alphabet.
ORDER = ("peers", "batch_sizes", "devices", "compile", "input", "loop_overhead", "time_to_accuracy", "gpu")


def load(results: Path) -> dict[str, dict[str, Any]]:
    """Every suite's results by the name of its folder, in the order of the page."""
    found = {str(file.parent.relative_to(results)): json.loads(file.read_text()) for file in results.rglob("rows.json")}
    names = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    return {name: found[name] for name in names}


def page(results: Path) -> str:
    """The report in Markdown; pictures are linked relative to the results' folder."""
    parts = [
        "# Results",
        "Made by `python -m benchmarks.report` from the files in these folders, which "
        "`python -m benchmarks.all` or one suite leaves. Each `rows.json` has every column, every sample and, "
        "for each row, the command that measures it again.",
    ]
    for name, value in load(results).items():
        folder = results / name
        if (folder / "rows.md").exists():
            table = (folder / "rows.md").read_text().split("\n", 1)[1].strip()
        else:  # a suite whose results are no table
            table = f"```json\n{(folder / 'rows.json').read_text().strip()}\n```"
        pictures = [f"![{picture.stem}]({name}/{picture.name})" for picture in sorted(folder.glob("*.png"))]
        parts += [f"## {value.get('title', name)}", f"{value.get('date', '')} · `{name}/`", table, *pictures]
    return "\n\n".join(part for part in parts if part) + "\n"


def readme_table(results: Path) -> str:
    """The few lines that the README shows: the peers beside each other, and where and when they were measured."""
    found = load(results)
    if "peers" not in found:
        raise SystemExit(f"{results}/peers has no results; run python -m benchmarks.peers first")
    suites = [value for name, value in found.items() if name.startswith("peers")]
    rows = [row for value in suites for row in value["rows"]]
    names = list(dict.fromkeys(row["peer"] for row in rows if row["peer"] != "jaxcnn"))
    lines = ["| training step | jaxcnn, images/s | " + " | ".join(names) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(names))
    tasks = dict.fromkeys((r["model"], r["batch_size"], r["dtype"], tuple(r["image_shape"])) for r in rows)
    for task in tasks:
        group = {r["peer"]: r for r in rows if (r["model"], r["batch_size"], r["dtype"]) == task[:3]}
        ours = group.get("jaxcnn", {})
        speed = shown(ours, "images_per_second") if "images_per_second" in ours else "-"
        cells = [f"{group[n]['ratio']:.2f}" if "ratio" in group.get(n, {}) else "-" for n in names]
        height, width, _ = task[3]
        lines.append(f"| {task[0]}, {task[1]} x {height}x{width}, {task[2]} | {speed} | {' | '.join(cells)} |")
    kinds = sorted({r["device_kind"] for r in rows if r.get("device_kind")})
    versions = sorted({v.strip() for r in rows for v in r.get("versions", "").split(",") if v.strip()})
    dates = sorted({value["date"][:10] for value in suites})
    lines.append(
        f"\nTime of a step by jaxcnn's: above 1 jaxcnn is faster. Medians over rounds in which the libraries took "
        f"turns, on {', '.join(kinds)}, {', '.join(dates)}; {', '.join(versions)}. "
        "`python -m benchmarks.peers` measures it again; [all results](benchmarks/results/README.md)."
    )
    return "\n".join(lines)


def with_table(text: str, table: str) -> str:
    """The README with the table between its marks.

    Raises:
      SystemExit: if it does not have both marks, in this order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the README needs the lines {BEGIN} and {END}, between which the table goes")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--readme", nargs="?", type=Path, const=Path("README.md"), help="the file with the marks")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args(args)
    if not arguments.results.is_dir():
        parser.error(f"{arguments.results} does not exist; run a suite first")
    if not arguments.check:
        (arguments.results / "README.md").write_text(page(arguments.results))
        print(f"written to {arguments.results / 'README.md'}")
    if arguments.readme:
        text = arguments.readme.read_text()
        new = with_table(text, readme_table(arguments.results))
        if arguments.check:
            if new != text:
                print(f"the table in {arguments.readme} is not the one of the results", file=sys.stderr)
                return 1
        else:
            arguments.readme.write_text(new)
            print(f"table written to {arguments.readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
