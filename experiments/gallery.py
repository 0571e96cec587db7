"""The gallery: one page made from the results alone, with every figure, its command, and whether its claim was seen."""

from pathlib import Path
from typing import Any

from experiments.experiment import Experiment, load_experiments
from experiments.run import RESULTS, read

PAGE = Path(__file__).parent / "README.md"

HEAD = """# Experiments

What a lecture says about convolutional networks, put to the test on real images with `jaxcnn`. Each claim is one file
in [`claims/`](claims), and everything on this page is made from the files in [`results/`](results) by
`python -m experiments gallery`.

```sh
python -m experiments list              # the claims
python -m experiments {example:<17} # one of them: results/{example}/results.json and its figures
python -m experiments all --seeds 3     # all of them, one after another; what is measured already is kept
python -m experiments all --budget full # for an accelerator
```

`pip install '.[cpu]'` makes convolutions on a CPU faster. ± is the standard deviation over seeds. Times are by the
clock; where the load is above that of the cores, other work kept them busy as well. [`recipes/`](recipes) holds the
papers' own training settings, and [`tour.ipynb`](tour.ipynb) goes from one layer to a trained network.
"""

SEEN = {"yes": "seen", "partly": "partly seen", "no": "**not seen**"}


def page(results: Path = RESULTS) -> str:
    """The gallery in Markdown, with links relative to the folder above `results`.

    Raises:
      UsageError: results that are missing, damaged or of another form.
    """
    found = [(experiment, read(results / name)) for name, experiment in load_experiments().items()]
    parts = [HEAD.format(example=found[0][0].name), _overview(found)]
    parts += [_section(experiment, values) for experiment, values in found]
    return "\n".join(parts)


def _overview(found: list[tuple[Experiment, dict[str, Any]]]) -> str:
    lines = ["| | claim | | what was seen |", "|---|---|---|---|"]
    for _, values in found:
        number, seen, text = values["claim"], SEEN[values["finding"]["seen"]], values["finding"]["text"]
        lines.append(f"| [{number}](#{number.lower()}) | {values['title']} | {seen} | {text} |")
    return "\n".join(lines) + "\n"


def _section(experiment: Experiment, values: dict[str, Any]) -> str:
    name, title, place = values["name"], values["title"], values["machine"]
    pictures = "\n\n".join(f"![{title}](results/{name}/{picture})" for picture in values["figures"])
    seconds, machine = _time(values["seconds"]), f"{place['device_kind']}, load {place['load']:.0f}"
    versions = f"jax {place['jax']}, flax {place['flax']}, convolutions by {place['convolutions']}"
    return f"""<a id="{values["claim"].lower()}"></a>

## {values["claim"]}: {title}

{experiment.text}

{pictures}

**{SEEN[values["finding"]["seen"]].strip("*").capitalize()}.** {values["finding"]["text"]}

`{values["command"]}` ([code](claims/{name}.py), [numbers](results/{name}/results.json)): {values["dataset"]}, \
{len(values["seeds"])} seeds, {seconds} on {machine}; {versions}; {place["date"][:10]}.
"""


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
